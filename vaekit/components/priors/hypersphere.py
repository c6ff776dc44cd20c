"""The uniform prior on a sphere."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from vaekit.distributions.sphere import UniformSphere, check_sphere
from vaekit.interfaces import Capability, Prior
from vaekit.roles import priors


@priors("hypersphere")
class Hypersphere(Prior):
    """Uniform on the unit sphere ``S^{D-1}``: the prior of an S-VAE, without a centre that attracts codes.

    Codes are unit vectors, so D latents have D - 1 degrees of freedom.

    References:
        Davidson et al. (2018), "Hyperspherical Variational Auto-Encoders", UAI, arXiv:1804.00891, section 3.
    """

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})
    space = "sphere"
    zero: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        check_sphere(latent_dim)
        self.register_buffer("zero", torch.zeros(latent_dim), persistent=False)

    def forward(self, model: Any = None, c: Tensor | None = None) -> UniformSphere:
        del model, c
        return UniformSphere(self.zero)

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor, temperature: float = 1.0) -> Tensor:
        """Draw standard normal noise ``(num, D)``; only its direction matters, so the temperature has no effect."""
        del temperature
        return super().draw_noise(num, generator, like=like)
