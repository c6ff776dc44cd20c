"""Densities over examples with values in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vaekit.distributions.density import sum_event

NEAR = 0.25
"""Threshold around 0 within which Taylor series are used, with a relative error below 1e-13."""


LOG_SINHC = (1 / 6, -1 / 180, 1 / 2835, -1 / 37800, 1 / 467775, -691 / 3831077250, 2 / 127702575)
"""The coefficients of ``log(sinh(v) / v)`` for even powers of v, from the second."""


def log_sinhc(value: Tensor) -> Tensor:
    """Return ``log(sinh(v) / v)``, which is even and 0 at 0."""
    near = value.abs() < NEAR
    square = torch.where(near, value, 0.0).square()
    size = torch.where(near, 1.0, value).abs()
    return torch.where(near, _powers(square, LOG_SINHC) * square, size + torch.log(-torch.expm1(-2 * size)) - torch.log(2 * size))


def langevin(value: Tensor) -> Tensor:
    """Return ``coth(v) - 1/v``, the derivative of `log_sinhc`."""
    near = value.abs() < NEAR
    little, large = torch.where(near, value, 0.0), torch.where(near, 1.0, value)
    derivative = [2 * (power + 1) * each for power, each in enumerate(LOG_SINHC)]
    return torch.where(near, _powers(little.square(), derivative) * little, 1 / torch.tanh(large) - 1 / large)


def _powers(value: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Evaluate a polynomial, given its coefficients from the constant on."""
    total = torch.zeros_like(value)
    for each in reversed(coefficients):
        total = total * value + each
    return total


class ContinuousBernoulliPixels(NamedTuple):
    """Independent pixels in [0, 1] with density ``l exp(l x) / (exp(l) - 1)``, parametrised by logits l.

    That is ``C λ^x (1 - λ)^(1 - x)`` with ``l = log(λ / (1 - λ))`` and the normalising constant C.

    References:
        Loaiza-Ganem and Cunningham (2019), "The Continuous Bernoulli: Fixing a Pervasive Error in Variational Autoencoders",
            NeurIPS, arXiv:1907.06845.
    """

    logits: Tensor
    event_ndim: int = 3

    @property
    def mean(self) -> Tensor:
        """The mean ``1 / (1 - exp(-l)) - 1 / l``, which is closer to ½ than λ."""
        return 0.5 + 0.5 * langevin(0.5 * self.logits)

    def rsample(self, noise: Tensor) -> Tensor:
        """Map standard normal noise to the quantiles of the same probability."""
        negative = self.logits < 0
        size = self.logits.abs().clamp(min=1e-4)  # below this, the density is uniform up to 1e-4
        share = torch.special.ndtr(torch.where(negative, noise, -noise))
        distance = -torch.log1p(share * torch.expm1(-size)) / size  # from the more probable end
        return torch.where(negative, distance, 1.0 - distance)

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        """Return ``l (x - ½) - log(sinh(l/2) / (l/2))``."""
        return self.logits * (value - 0.5) - log_sinhc(0.5 * self.logits)

    def log_prob(self, value: Tensor) -> Tensor:
        return sum_event(self.log_prob_per_dim(value), self.event_ndim)

    def log_mass(self, value: Tensor, width: float) -> Tensor:
        """Return the log probability of grey levels ``width`` apart, integrals over the nearest values, ``(*S, B)``."""
        low, high = (value - width / 2).clamp(min=0), (value + width / 2).clamp(max=1)
        inner = log_sinhc(0.5 * self.logits * (high - low)) + torch.log(high - low)
        terms = self.logits * (0.5 * (low + high) - 0.5) + inner - log_sinhc(0.5 * self.logits)
        return sum_event(terms, self.event_ndim)
