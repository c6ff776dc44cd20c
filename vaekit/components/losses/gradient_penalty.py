"""The norm of the decoder's Jacobian."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from vaekit.interfaces import Loss
from vaekit.nn.schedules import NonNegativeScheduled, scheduled
from vaekit.roles import losses
from vaekit.trace import Trace, mean_over_samples


@losses("gradient_penalty")
class GradientPenalty(Loss):
    """``weight |∂x/∂z|²``, the squared Frobenius norm of the decoder's Jacobian: nearby codes decode to similar images.

    The regulariser of RAE-GP. The estimate ``|J u|²`` with random signs u is unbiased; it takes one directional derivative per
    code, about the cost of two decoder passes. Random signs in latent space give less variance than in image space, and none if
    latents move images in orthogonal directions. (The paper's code differentiates the sum of all pixels, which is small if
    pixels change in opposite directions.)

    Args:
        weight: Weight of the loss.

    References:
        Ghosh et al. (2020), "From Variational to Deterministic Autoencoders", ICLR, arXiv:1903.12436, section 3.1.
        Hutchinson (1990), "A Stochastic Estimator of the Trace of the Influence Matrix for Laplacian Smoothing Splines",
            Communications in Statistics: Simulation and Computation 19.
    """

    samples = None

    def __init__(self, *, weight: NonNegativeScheduled = 0.1) -> None:
        super().__init__()
        self.weight = scheduled(weight)
        _prepare_forward_mode()

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor, model: Any) -> Tensor:
        """Draw a random sign for each latent, ``(num, D)``."""
        shape = (num, model.latent_dim)
        return 2 * torch.randint(2, shape, generator=generator, device=like.device).to(like.dtype) - 1

    def forward(self, trace: Trace) -> Tensor:
        model, z = trace.model, trace.z
        c = model.condition_on(trace.y)
        signs = self.noise_of(trace).to(z.dtype).expand_as(z)

        def decoded(codes: Tensor) -> Tensor:
            images: Tensor = model.likelihood_of(codes, c).mean
            return images

        derivative: Tensor = torch.func.jvp(decoded, (z,), (signs,))[1]
        norm = mean_over_samples(derivative.flatten(z.ndim - 1).square().sum(-1))
        trace.metrics["squared_jacobian"] = norm
        return self.weight(trace.epoch) * norm


def _prepare_forward_mode() -> None:
    """Load torch's rules for forward-mode derivatives, silencing a deprecation warning from torch's own code."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", FutureWarning)
        forward_ad.make_dual(torch.zeros(()), torch.zeros(()))
