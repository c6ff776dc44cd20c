"""Gaussian densities over latent vectors."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vaekit.distributions.density import full_precision

LOG_2PI = math.log(2.0 * math.pi)


class DiagonalGaussian(NamedTuple):
    """``N(mu, diag exp(logvar))`` over latent vectors; unpacks into ``mu, logvar``, each ``(B, D)``.

    Example:
        >>> q = DiagonalGaussian(mu=torch.zeros(5, 2), logvar=torch.zeros(5, 2))
        >>> q.log_prob(q.rsample(torch.randn(3, 5, 2))).shape
        torch.Size([3, 5])
    """

    mu: Tensor
    logvar: Tensor

    @property
    def mean(self) -> Tensor:
        return self.mu

    @property
    def variance(self) -> Tensor:
        return torch.exp(self.logvar)

    def rsample(self, noise: Tensor) -> Tensor:
        """Return ``z = mu + exp(logvar / 2) * noise`` for noise ``(*S, B, D)``.

        References:
            Kingma and Welling (2014), "Auto-Encoding Variational Bayes", ICLR, arXiv:1312.6114, equation 10.
        """
        return torch.addcmul(self.mu, torch.exp(0.5 * self.logvar), noise)

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        """Return ``log N(value_d; mu_d, var_d)``, ``(*S, B, D)``."""
        return -0.5 * (LOG_2PI + self.logvar + (value - self.mu).square() * torch.exp(-self.logvar))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.log_prob_per_dim(value).sum(-1)


class FullGaussian(NamedTuple):
    """``N(mu, L L^T)`` over latent vectors, with ``L = diag(exp(logvar / 2)) M``.

    Args:
        mu: The means, ``(B, D)``.
        logvar: The log-variance of each dimension given the preceding ones, ``(B, D)``.
        unit: The lower triangular matrices M, with a unit diagonal, ``(B, D, D)``.
    """

    mu: Tensor
    logvar: Tensor
    unit: Tensor

    @property
    def mean(self) -> Tensor:
        return self.mu

    @property
    def variance(self) -> Tensor:
        """The marginal variances, ``(B, D)``."""
        return torch.exp(self.logvar) * self.unit.square().sum(-1)

    def rsample(self, noise: Tensor) -> Tensor:
        """Return ``z = mu + L noise`` for noise ``(*S, B, D)``."""
        with full_precision(noise):
            mixed = (self.unit @ noise.unsqueeze(-1)).squeeze(-1)
        return torch.addcmul(self.mu, torch.exp(0.5 * self.logvar), mixed)

    def rsample_and_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return samples and their log densities ``(*S, B)`` without solving for the noise."""
        return self.rsample(noise), -0.5 * (LOG_2PI + self.logvar + noise.square()).sum(-1)

    def conditional_log_probs(self, value: Tensor) -> Tensor:
        """Return the log density of each dimension given the preceding ones, ``(*S, B, D)``."""
        scaled = ((value - self.mu) * torch.exp(-0.5 * self.logvar)).unsqueeze(-1)
        unit = self.unit.expand(*scaled.shape[:-2], *self.unit.shape[-2:])
        noise: Tensor = torch.linalg.solve_triangular(unit, scaled, upper=False, unitriangular=True).squeeze(-1)
        return -0.5 * (LOG_2PI + self.logvar + noise.square())

    def log_prob(self, value: Tensor) -> Tensor:
        return self.conditional_log_probs(value).sum(-1)


class StandardNormal(NamedTuple):
    """``N(0, I)`` over latent vectors; ``zero``, a tensor of zeros ``(D,)``, sets size, device and dtype."""

    zero: Tensor

    @property
    def mean(self) -> Tensor:
        return self.zero

    @property
    def variance(self) -> Tensor:
        return torch.ones_like(self.zero)

    def rsample(self, noise: Tensor) -> Tensor:
        return noise + self.zero

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        return -0.5 * (LOG_2PI + value.square())

    def log_prob(self, value: Tensor) -> Tensor:
        return self.log_prob_per_dim(value).sum(-1)
