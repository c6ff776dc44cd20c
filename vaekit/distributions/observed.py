"""The density of the observed values of an example."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vaekit.distributions.density import FactorisedDensity, sum_event


class Observed(NamedTuple):
    """A factorised density that ignores missing values (NaN): the marginal density of the observed ones.

    Args:
        density: The density of complete examples.
        event_ndim: The number of dimensions of an example.

    Example:
        >>> from vaekit.distributions import GaussianPixels
        >>> p = Observed(GaussianPixels(torch.zeros(1, 3), torch.zeros(1), event_ndim=1), event_ndim=1)
        >>> p.log_prob_per_dim(torch.tensor([[0.0, torch.nan, 1.0]]))
        tensor([[-0.9189,  0.0000, -1.4189]])
    """

    density: FactorisedDensity
    event_ndim: int

    @property
    def mean(self) -> Tensor:
        return self.density.mean

    def rsample(self, noise: Tensor) -> Tensor:
        return self.density.rsample(noise)

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        """Return log densities per dimension, ``(*S, B, *event)``; 0, with a gradient of 0, for missing values."""
        missing = value.isnan()
        terms = self.density.log_prob_per_dim(torch.where(missing, 0.0, value))  # NaN would survive in the gradient
        return torch.where(missing, 0.0, terms)

    def log_prob(self, value: Tensor) -> Tensor:
        return sum_event(self.log_prob_per_dim(value), self.event_ndim)
