"""What distributions offer."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Distribution(Protocol):
    """A batch of distributions over events: latent vectors ``(D,)`` or images ``(C, H, W)``.

    Sample dimensions ``*S`` come before the batch ``B``, event dimensions last.
    """

    @property
    def mean(self) -> Tensor:
        """The mean of each distribution, ``(B, *event)``."""
        ...

    def rsample(self, noise: Tensor) -> Tensor:
        """Map base noise ``(*S, B, *event)`` to samples of the same shape, differentiably."""
        ...


class Density(Distribution, Protocol):
    """A distribution that has a density, or a mass, and can evaluate it exactly."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log densities in nats, ``(*S, B)``, summed over event dimensions."""
        ...


class FactorisedDensity(Density, Protocol):
    """A density whose dimensions are independent."""

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        """Return log densities dimension by dimension, ``(*S, B, *event)``."""
        ...


def sum_event(values: Tensor, ndim: int) -> Tensor:
    """Sum over the last ``ndim`` dimensions, in float32 at least: bfloat16 cannot hold 10,000 nats."""
    dtype = torch.promote_types(values.dtype, torch.float32)
    return values.sum(tuple(range(-ndim, 0)), dtype=dtype)


def at_least_float32(values: Tensor) -> Tensor:
    """Return half-precision tensors as float32, others as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
