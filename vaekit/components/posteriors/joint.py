"""Gaussian and categorical latents."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from vaekit.distributions import DiagonalGaussian, GaussianAndOneHot, OneHot, at_least_float32, one_hot
from vaekit.errors import UsageError
from vaekit.interfaces import Capability, Posterior, Shape
from vaekit.roles import posteriors
from vaekit.schema import Count


@posteriors("joint")
class Joint(Posterior):
    """JointVAE: Gaussian latents for continuous factors and a categorical variable of K classes for a discrete one.

    The last K of the D latents, or of the channels of a grid, are the one-hot vector of the categorical variable, which is
    trained and evaluated as in `categorical`. The KL is the sum over both parts. With the plain ELBO, the categorical variable
    may remain unused (on digits, it carried 0.04 of 18 nats); the loss ``joint_capacity`` sets a target for each part. ``vaekit
    traverse --sigmas 4`` shows the classes.

    Args:
        num_classes: Number of classes K; default: half the latents, rounded up.
        temperature: Temperature of the relaxed samples of the categorical variable.
        max_logvar: Bound of the log-variances.

    References:
        Dupont (2018), "Learning Disentangled Joint Continuous and Discrete Representations", NeurIPS, arXiv:1804.00104.
    """

    provides: ClassVar[frozenset[str]] = frozenset({Capability.LOG_PROB, "joint"})
    space = "joint"
    default_prior = "joint"
    temperature: Tensor

    def __init__(
        self,
        latent_dim: int,
        latent_shape: Shape,
        *,
        num_classes: Count | None = None,
        temperature: PositiveFloat = 0.67,
        max_logvar: Annotated[float, Field(gt=0, le=60)] = 20.0,
    ) -> None:
        super().__init__(latent_dim)
        channels = latent_shape[0]
        if num_classes is not None and num_classes > channels:
            raise UsageError(
                "the posterior 'joint' has fewer latents than classes",
                given=f"{channels} {'latents' if len(latent_shape) == 1 else 'channels'}, {num_classes} classes",
                expected="a latent for each class, and at least one Gaussian latent",
                remedy=f"use --latent-dim {num_classes + 10}, or reduce --num-classes",
            )
        self.num_classes = (channels + 1) // 2 if num_classes is None else num_classes
        self.num_discrete = latent_dim // channels * self.num_classes
        self.max_logvar = max_logvar
        self.register_buffer("temperature", torch.tensor(temperature), persistent=False)

    @property
    def param_shape(self) -> Shape:
        """Return ``(2, D)``: means and logits, then log-variances; those of the one-hot vector are unused."""
        return (2, self.latent_dim)

    @property
    def code_sizes(self) -> Shape:
        return (self.num_classes,)

    def forward(self, params: Tensor, model: Any = None) -> GaussianAndOneHot:
        del model
        first, second = at_least_float32(params).unbind(-2)
        num = self.latent_dim - self.num_discrete
        logvar = second[..., :num].clamp(-self.max_logvar, self.max_logvar)
        logits = first[..., num:].unflatten(-1, (1, self.num_classes, -1))
        discrete = OneHot(torch.log_softmax(logits, -2), self.temperature, not self.training)
        return GaussianAndOneHot(DiagonalGaussian(first[..., :num], logvar), discrete)

    def nearest(self, z: Tensor) -> Tensor:
        num = self.latent_dim - self.num_discrete
        discrete = one_hot(z[..., num:].unflatten(-1, (self.num_classes, -1)))
        return torch.cat([z[..., :num], discrete.flatten(-2)], -1)
