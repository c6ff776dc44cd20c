"""The point-mass posterior of a plain autoencoder."""

from __future__ import annotations

import torch
from torch import Tensor

from vaekit.distributions import Delta, at_least_float32
from vaekit.interfaces import Posterior, Shape
from vaekit.roles import posteriors


@posteriors("delta")
class DeltaPosterior(Posterior):
    """All mass at the encoder's output: a plain autoencoder, without a density, a KL or an ELBO.

    Samples from the prior need not decode to anything, since nothing pulls the codes towards it.
    """

    @property
    def param_shape(self) -> Shape:
        return (self.latent_dim,)

    def forward(self, params: Tensor) -> Delta:
        return Delta(at_least_float32(params))

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor) -> Tensor:
        """Return zeros ``(num, D)``: a point mass uses no noise."""
        return like.new_zeros(num, self.latent_dim)
