"""Densities over examples whose numbers lie in [0, 1]."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vaekit.distributions.density import sum_event

NEAR = 0.05
"""Logits nearer to 0 than this are replaced by Taylor series, whose relative error is then below 1e-13."""


def log_sinhc(value: Tensor) -> Tensor:
    """Return ``log(sinh(v) / v)``, which is even and 0 at 0."""
    near = value.abs() < NEAR
    square = torch.where(near, value, 0.0).square()
    series = square * (1 / 6 + square * (-1 / 180 + square * (1 / 2835 - square / 37800)))
    size = torch.where(near, 1.0, value).abs()
    return torch.where(near, series, size + torch.log(-torch.expm1(-2.0 * size)) - torch.log(2.0 * size))


class ContinuousBernoulliPixels(NamedTuple):
    """Independent pixels in [0, 1] of density ``l exp(l x) / (exp(l) - 1)``, parametrised by logits l.

    That is ``C λ^x (1 - λ)^(1 - x)`` with ``l = log(λ / (1 - λ))`` and the constant C that makes it integrate to 1.

    References:
        Loaiza-Ganem and Cunningham (2019), "The Continuous Bernoulli: Fixing a Pervasive Error in Variational Autoencoders",
            NeurIPS, arXiv:1907.06845.
    """

    logits: Tensor
    event_ndim: int = 3

    @property
    def mean(self) -> Tensor:
        """The mean ``1 / (1 - exp(-l)) - 1 / l``, which is nearer to ½ than λ."""
        near = self.logits.abs() < NEAR
        little = torch.where(near, self.logits, 0.0)
        square = little.square()
        series = 0.5 + little * (1 / 12 + square * (-1 / 720 + square * (1 / 30240 - square / 1209600)))
        large = torch.where(near, 1.0, self.logits)
        size = large.abs()
        right = -1.0 / torch.expm1(-size) - 1.0 / size
        return torch.where(near, series, torch.where(large > 0, right, 1.0 - right))

    def rsample(self, noise: Tensor) -> Tensor:
        """Map standard normal noise to the quantiles of the same probabilities."""
        negative = self.logits < 0
        size = self.logits.abs().clamp(min=1e-4)  # below which the density is uniform up to 1e-4
        share = torch.special.ndtr(torch.where(negative, noise, -noise))
        distance = -torch.log1p(share * torch.expm1(-size)) / size  # from the more probable end
        return torch.where(negative, distance, 1.0 - distance)

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        """Return ``l (x - ½) - log(sinh(l/2) / (l/2))``."""
        return self.logits * (value - 0.5) - log_sinhc(0.5 * self.logits)

    def log_prob(self, value: Tensor) -> Tensor:
        return sum_event(self.log_prob_per_dim(value), self.event_ndim)

    def log_mass(self, value: Tensor, width: float) -> Tensor:
        """Return the log probability of grey levels ``width`` apart, integrals over the nearest values in [0, 1], ``(*S, B)``."""
        low, high = (value - width / 2).clamp(min=0), (value + width / 2).clamp(max=1)
        inner = log_sinhc(0.5 * self.logits * (high - low)) + torch.log(high - low)
        terms = self.logits * (0.5 * (low + high) - 0.5) + inner - log_sinhc(0.5 * self.logits)
        return sum_event(terms, self.event_ndim)
