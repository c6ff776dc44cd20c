"""A point mass, the posterior of a plain autoencoder."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Delta(NamedTuple):
    """A point mass at ``point`` ``(B, D)``. It has no density, hence no ``log_prob``."""

    point: Tensor

    @property
    def mean(self) -> Tensor:
        return self.point

    def rsample(self, noise: Tensor) -> Tensor:
        """Return the point, expanded over the sample dimensions of ``noise``."""
        return self.point.expand(noise.shape)
