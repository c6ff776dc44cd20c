"""Categorical latents with the Gumbel-softmax relaxation."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import PositiveFloat
from torch import Tensor

from vaekit.distributions import OneHot, at_least_float32, one_hot
from vaekit.errors import UsageError
from vaekit.interfaces import Capability, Posterior, Shape
from vaekit.roles import posteriors
from vaekit.schema import Count


@posteriors("categorical")
class Categorical(Posterior):
    """Categorical variables of K classes as one-hot vectors, trained with the Gumbel-softmax (or Concrete) relaxation.

    The D latents form D / K variables: 20 with ``--latent-dim 200 --num-classes 10``. On a grid, they are the channels of each
    position. In training, samples are relaxed: a low temperature makes them nearly one-hot, at the cost of noisy gradients (on
    digits, 0.4 gave an ELBO 8 nats higher than 1). The KL is that of the discrete variables, in closed form, so the training
    loss is not a bound. Evaluation, samples and log p(x) use one-hot vectors, so the reported ELBO is a bound; `active_units`
    and reconstructions use the mean, which is the class probabilities.

    Args:
        num_classes: Number of classes K per variable; default: all latents, or all channels of a grid, form one variable.
        temperature: Temperature of the relaxed samples.
        straight_through: Whether to use one-hot samples in training too, with the gradients of the relaxed ones.

    References:
        Jang et al. (2017), "Categorical Reparameterization with Gumbel-Softmax", ICLR, arXiv:1611.01144, section 2.
        Maddison et al. (2017), "The Concrete Distribution: A Continuous Relaxation of Discrete Random Variables", ICLR,
            arXiv:1611.00712, section 3.
    """

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})
    space = "one_hot"
    default_prior = "categorical"
    temperature: Tensor

    def __init__(
        self,
        latent_dim: int,
        latent_shape: Shape,
        *,
        num_classes: Count | None = None,
        temperature: PositiveFloat = 0.5,
        straight_through: bool = False,
    ) -> None:
        super().__init__(latent_dim)
        channels = latent_shape[0]
        self.num_classes = channels if num_classes is None else num_classes
        if channels % self.num_classes:
            raise UsageError(
                "the latents of the posterior 'categorical' cannot be divided into variables",
                given=f"{channels} {'latents' if len(latent_shape) == 1 else 'channels'}, {self.num_classes} classes",
                expected="a multiple of the number of classes",
                remedy=f"use --latent-dim {self.num_classes * (channels // self.num_classes + 1)}, or change --num-classes",
            )
        self.num, self.straight_through = channels // self.num_classes, straight_through
        self.register_buffer("temperature", torch.tensor(temperature), persistent=False)

    @property
    def param_shape(self) -> Shape:
        return (self.latent_dim,)

    @property
    def code_sizes(self) -> Shape:
        return (self.num_classes,) * self.num

    def forward(self, params: Tensor, model: Any = None) -> OneHot:
        del model
        logits = at_least_float32(params).unflatten(-1, (self.num, self.num_classes, -1))
        return OneHot(torch.log_softmax(logits, -2), self.temperature, self.straight_through or not self.training)

    def nearest(self, z: Tensor) -> Tensor:
        return one_hot(z.unflatten(-1, (self.num, self.num_classes, -1))).flatten(-3)
