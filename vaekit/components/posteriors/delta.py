"""The point-mass posterior of a plain autoencoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vaekit.distributions import Delta, at_least_float32
from vaekit.interfaces import Posterior, Shape
from vaekit.roles import posteriors


@posteriors("delta")
class DeltaPosterior(Posterior):
    """A point mass at the encoder's output: a plain autoencoder, without a density, a KL or an ELBO.

    Nothing pulls the codes towards the prior, so prior samples need not decode to anything meaningful.
    """

    default_loss = None

    @property
    def param_shape(self) -> Shape:
        return (self.latent_dim,)

    def forward(self, params: Tensor, model: Any = None) -> Delta:
        del model
        return Delta(at_least_float32(params))

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor) -> Tensor:
        """Return zeros ``(num, D)``: a point mass needs no noise."""
        return like.new_zeros(num, self.latent_dim)
