"""The sliced Wasserstein distance between codes and the prior."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vaekit.interfaces import Loss
from vaekit.nn.schedules import NonNegativeScheduled, scheduled
from vaekit.roles import losses
from vaekit.schema import Count
from vaekit.trace import Trace


@losses("sliced_wasserstein")
class SlicedWasserstein(Loss):
    """``weight D E_u W²(u·z, u·y)``: matches the codes of a batch to samples y from any prior.

    W² is the squared Wasserstein distance in one dimension, computed exactly by sorting, and u a random direction. For two
    distributions that differ by a shift, the distance is the squared shift. It needs neither a density nor a kernel, and takes
    ``L B log B`` operations for L directions. With finite samples, it is positive even for codes that follow the prior; larger
    batches reduce this bias. The loss covers neither reconstruction nor KL: with the posterior `delta`, the model is SWAE. A
    learned prior is trained through its samples, except for mixture weights, which only select components.

    Args:
        weight: Weight of the loss.
        num_projections: Number of directions L.

    References:
        Kolouri et al. (2019), "Sliced Wasserstein Auto-Encoders", ICLR, arXiv:1804.01947.
    """

    batch_statistic = True
    samples = None

    def __init__(self, *, weight: NonNegativeScheduled = 10.0, num_projections: Count = 50) -> None:
        super().__init__()
        self.weight, self.num_projections = scheduled(weight), num_projections

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor, model: Any) -> Tensor:
        """Draw the noise of one prior sample and of the directions for each example, ``(num, N + K D)``."""
        prior: Tensor = model.prior.draw_noise(num, generator, like=like)
        size = -(-self.num_projections // num) * model.latent_dim
        directions = torch.randn(num, size, generator=generator, device=like.device, dtype=like.dtype)
        return torch.cat([prior, directions], 1)

    def forward(self, trace: Trace) -> Tensor:
        z, noise = trace.z, self.noise_of(trace)
        num, dim = z.shape[-2:]
        size = -(-self.num_projections // num) * dim
        y = trace.site.p.rsample(noise[:, :-size])
        directions = noise[:, -size:].reshape(-1, dim)[: self.num_projections].to(z.dtype)
        value = dim * sliced_wasserstein(z, y, directions / directions.norm(dim=-1, keepdim=True)).mean()
        trace.metrics["squared_wasserstein"] = value
        return self.weight(trace.epoch) * value


def sliced_wasserstein(z: Tensor, y: Tensor, directions: Tensor) -> Tensor:
    """Return the mean over directions ``(L, D)`` of the squared Wasserstein distance between projections, ``(*S)``.

    Args:
        z: Points, ``(*S, B, D)``.
        y: The same number of other points, ``(B, D)``.
        directions: Unit vectors.
    """
    one, other = ((points.unsqueeze(-3) * directions.unsqueeze(-2)).sum(-1) for points in (z, y))  # (*S, L, B), in full precision
    return (one.sort(-1).values - other.sort(-1).values).square().mean((-2, -1))
