"""Base class of mixture priors."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from vaekit.interfaces import Capability, Prior


def spread_indices(num: int, total: int) -> Tensor:
    """Return ``num`` indices spread evenly over ``total`` examples, ``(num,)``; indices repeat if there are fewer examples."""
    return torch.arange(num) * max(1, total // num) % total


class MixturePrior(Prior):
    """A prior that is a mixture of densities."""

    provides: ClassVar[frozenset[str]] = frozenset({Capability.LOG_PROB})

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor, temperature: float = 1.0) -> Tensor:
        """Draw ``(num, D + 1)``: standard normal noise, and a uniform number on [0, 1) that selects the component."""
        noise = super().draw_noise(num, generator, like=like, temperature=temperature)
        component = torch.rand(num, 1, generator=generator, device=like.device, dtype=like.dtype)
        return torch.cat([noise, component], -1)
