"""The squared Jacobian of the decoder at the codes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vaekit.interfaces import Loss
from vaekit.nn.schedules import NonNegativeScheduled, scheduled
from vaekit.roles import losses
from vaekit.trace import Trace


@losses("gradient_penalty")
class GradientPenalty(Loss):
    """``λ |J(z)|²`` for the Jacobian J of the decoded example by its code z: a small change of a code changes little.

    The squared Frobenius norm is estimated without bias by ``|Jᵀ v|²``, for one standard normal v of the shape of an example, so
    a step takes one more pass through the decoder in each direction, and gradients of gradients. It covers nothing.

    Args:
        weight: Weight λ.

    References:
        Ghosh et al. (2020), "From Variational to Deterministic Autoencoders", ICLR, arXiv:1903.12436, equation 12.
    """

    def __init__(self, *, weight: NonNegativeScheduled = 1e-2) -> None:
        super().__init__()
        self.weight = scheduled(weight)

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor, model: Any) -> Tensor:
        """Draw the vectors v, ``(num, *data_shape)``."""
        return torch.randn(num, *model.data_shape, generator=generator, device=like.device, dtype=like.dtype)

    def forward(self, trace: Trace) -> Tensor:
        model, c = trace.model, trace.model.condition_on(trace.y)
        _, pull_back = torch.func.vjp(lambda z: model.likelihood_of(z, c).mean, trace.z)
        (gradient,) = pull_back(self.noise_of(trace))
        squared_norm = gradient.square().sum(-1)
        trace.metrics["jacobian"] = squared_norm
        return self.weight(trace.epoch) * squared_norm
