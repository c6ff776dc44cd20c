"""Gaussian densities over latent vectors."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

LOG_2PI = math.log(2.0 * math.pi)


class DiagonalGaussian(NamedTuple):
    """``N(mu, diag exp(logvar))`` over latent vectors; unpacks into ``mu, logvar``, each ``(B, D)``."""

    mu: Tensor
    logvar: Tensor

    @property
    def mean(self) -> Tensor:
        return self.mu

    def rsample(self, noise: Tensor) -> Tensor:
        """``z = mu + exp(logvar / 2) * noise`` (Kingma & Welling 2014, eq. 10); noise ``(*S, B, D)``."""
        return torch.addcmul(self.mu, torch.exp(0.5 * self.logvar), noise)

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        """Return ``log N(value_d; mu_d, var_d)``, ``(*S, B, D)``."""
        return -0.5 * (LOG_2PI + self.logvar + (value - self.mu).square() * torch.exp(-self.logvar))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.log_prob_per_dim(value).sum(-1)


class StandardNormal(NamedTuple):
    """``N(0, I)`` over latent vectors; ``zero`` is a tensor of zeros ``(D,)`` that gives size, device and dtype."""

    zero: Tensor

    @property
    def mean(self) -> Tensor:
        return self.zero

    def rsample(self, noise: Tensor) -> Tensor:
        return noise + self.zero

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        return -0.5 * (LOG_2PI + value.square())

    def log_prob(self, value: Tensor) -> Tensor:
        return self.log_prob_per_dim(value).sum(-1)
