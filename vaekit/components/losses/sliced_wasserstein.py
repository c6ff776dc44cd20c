"""The sliced Wasserstein distance between codes and the prior."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vaekit.distributions import full_precision
from vaekit.interfaces import Loss
from vaekit.nn.schedules import NonNegativeScheduled, scheduled
from vaekit.roles import losses
from vaekit.trace import Trace


@losses("sliced_wasserstein")
class SlicedWasserstein(Loss):
    """``λ SW²``: the squared Wasserstein distance between the codes of a batch and as many draws from the prior, along lines.

    Along a line, the distance is that of the sorted values. It is averaged over as many random directions as there are codes,
    B, which takes B² (D + log B) operations per step. Even codes from the prior have a positive distance, as batches are finite.
    It covers neither reconstruction nor KL.

    Args:
        weight: Weight λ.

    References:
        Kolouri et al. (2019), "Sliced Wasserstein Auto-Encoders", ICLR, arXiv:1804.01947, equation 9.
    """

    batch_statistic = True

    def __init__(self, *, weight: NonNegativeScheduled = 100.0) -> None:
        super().__init__()
        self.weight = scheduled(weight)

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor, model: Any) -> Tensor:
        """Draw a direction and the base noise of a draw from the prior for each code, ``(num, D + ...)``."""
        directions = torch.randn(num, model.latent_dim, generator=generator, device=like.device, dtype=like.dtype)
        return torch.cat([directions, model.prior.draw_noise(num, generator, like=like)], -1)

    def forward(self, trace: Trace) -> Tensor:
        z, noise = trace.z, self.noise_of(trace)
        directions, base = F.normalize(noise[:, : z.shape[-1]], dim=-1), noise[:, z.shape[-1] :]
        value = squared_distance(z, trace.site.p.rsample(base), directions)
        trace.metrics["sliced_wasserstein_distance"] = value
        return self.weight(trace.epoch) * value


def squared_distance(a: Tensor, b: Tensor, directions: Tensor) -> Tensor:
    """Return the squared Wasserstein distance between samples ``(B, D)``, averaged over unit vectors ``(L, D)``, 0-d."""
    with full_precision(a):
        along_a, along_b = ((directions @ each.T).sort(-1).values for each in (a, b))
    return (along_a - along_b).square().mean()
