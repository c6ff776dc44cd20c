"""Distributions of counts (non-negative integers)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vaekit.distributions.density import sum_event

HALVINGS = 60
"""Number of bisection steps for quantiles."""


class PoissonCounts(NamedTuple):
    """Independent Poisson counts, parametrised by the log of their rates."""

    log_rate: Tensor
    event_ndim: int = 1

    @property
    def mean(self) -> Tensor:
        return torch.exp(self.log_rate)

    def rsample(self, noise: Tensor) -> Tensor:
        """Map uniform noise to counts, without a reparameterised gradient."""
        return poisson_quantile(self.mean, noise)

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        return value * self.log_rate - torch.exp(self.log_rate) - torch.lgamma(value + 1)

    def log_prob(self, value: Tensor) -> Tensor:
        return sum_event(self.log_prob_per_dim(value), self.event_ndim)


class NegativeBinomialCounts(NamedTuple):
    """Independent counts with variance ``μ + μ²/r``: Poisson counts with gamma-distributed rates of shape r and mean μ.

    Args:
        log_mean: The log of the mean μ, ``(*S, B, *event)``.
        log_shape: The log of the inverse dispersion r, broadcast against it.
        event_ndim: The number of dimensions of an example.
    """

    log_mean: Tensor
    log_shape: Tensor
    event_ndim: int = 1

    @property
    def mean(self) -> Tensor:
        return torch.exp(self.log_mean)

    def rsample(self, noise: Tensor) -> Tensor:
        """Map uniform noise ``(*S, B, 2, *event)`` to counts, without a reparameterised gradient."""
        first, second = noise.unbind(-self.event_ndim - 1)
        shape = torch.exp(self.log_shape)
        rate = gamma_quantile(shape, first) * torch.exp(self.log_mean - self.log_shape)
        return poisson_quantile(rate, second)

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        """Return ``log Γ(x+r) / (Γ(r) x!) + r log(r / (r+μ)) + x log(μ / (r+μ))``."""
        shape = torch.exp(self.log_shape)
        ratio = self.log_mean - self.log_shape
        chosen = torch.lgamma(value + shape) - torch.lgamma(shape) - torch.lgamma(value + 1)
        return chosen - shape * F.softplus(ratio) - value * F.softplus(-ratio)

    def log_prob(self, value: Tensor) -> Tensor:
        return sum_event(self.log_prob_per_dim(value), self.event_ndim)


def poisson_quantile(rate: Tensor, probability: Tensor) -> Tensor:
    """Return the smallest count whose CDF is at least ``probability``, by bisection."""
    rate, probability = torch.broadcast_tensors(rate.detach(), probability)
    high = (2 * rate + 20 * rate.sqrt() + 100).ceil()  # the tail beyond is below float64 precision
    found = bisect(lambda count: torch.special.gammaincc(count.floor() + 1, rate) >= probability, -torch.ones_like(rate), high)
    return found.floor()


def gamma_quantile(shape: Tensor, probability: Tensor) -> Tensor:
    """Return the quantile of a gamma variable with scale 1 at ``probability``, by bisection."""
    shape, probability = torch.broadcast_tensors(shape.detach(), probability)
    high = torch.log(2 * shape + 20 * shape.sqrt() + 100)
    low = torch.minimum(high, (torch.lgamma(shape + 1) - 40) / shape)  # P = x^r / Γ(r+1) for small x: here it is exp(-40)
    log_value = bisect(lambda value: torch.special.gammainc(shape, torch.exp(value)) >= probability, low, high)
    return torch.exp(log_value)


def bisect(reached: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Shrink intervals to the point where a condition, false at the lower end, becomes true; return their ends."""
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        holds = reached(middle)
        low, high = torch.where(holds, low, middle), torch.where(holds, middle, high)
    return high
