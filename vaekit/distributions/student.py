"""Student's t density over examples."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vaekit.distributions.density import sum_event

LARGE = 10.0
"""The argument from which `log_gamma_ratio` uses a series, exact to 1e-9; differences of `lgamma` lose digits there."""


def log_gamma_ratio(value: Tensor) -> Tensor:
    """Return ``log Γ(h + ½) - log Γ(h)``; its error adds up over all elements, and differences in float32 are off by 1e-4."""
    large = value > LARGE
    some = torch.where(large, LARGE, value)
    inverse = 1.0 / torch.where(large, value, LARGE)
    square = inverse.square()
    series = inverse * (-1 / 8 + square * (1 / 192 + square * (-1 / 640 + square * 17 / 14336)))
    return torch.where(large, series - 0.5 * torch.log(inverse), torch.lgamma(some + 0.5) - torch.lgamma(some))


class StudentTPixels(NamedTuple):
    """Independent Student's t variables.

    Args:
        location: The mode and, above one degree of freedom, the mean, ``(*S, B, *event)``.
        log_scale: The log scale, broadcast against it.
        dof: The degrees of freedom ν, above 1, broadcast against it.
        event_ndim: The number of dimensions of an example.
    """

    location: Tensor
    log_scale: Tensor
    dof: Tensor
    event_ndim: int = 3

    @property
    def mean(self) -> Tensor:
        return self.location

    def rsample(self, noise: Tensor) -> Tensor:
        """Map standard normal noise ``(*S, B, 2, *event)`` to samples, by Bailey's polar method from two uniform numbers."""
        radius, angle = noise.unbind(-self.event_ndim - 1)
        square = self.dof * torch.expm1(-2.0 / self.dof * torch.special.log_ndtr(radius))
        return self.location + torch.exp(self.log_scale) * square.sqrt() * torch.cos(2.0 * math.pi * torch.special.ndtr(angle))

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        scaled = (value - self.location) * torch.exp(-self.log_scale)
        half = 0.5 * self.dof
        constant = log_gamma_ratio(half) - 0.5 * torch.log(math.pi * self.dof)
        return constant - self.log_scale - (half + 0.5) * torch.log1p(scaled.square() / self.dof)

    def log_prob(self, value: Tensor) -> Tensor:
        return sum_event(self.log_prob_per_dim(value), self.event_ndim)
