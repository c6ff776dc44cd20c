"""The uniform prior over codes."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from vaekit.distributions import UniformCodes
from vaekit.interfaces import Capability, Prior, Shape
from vaekit.roles import priors


@priors("uniform")
class Uniform(Prior):
    """All codes are equally probable at each position: the prior with which a VQ-VAE is trained.

    The KL is constant: ``P log K`` for P positions and K codes, or ``P R log K`` for residual quantisation with R codes per
    position.

    References:
        van den Oord et al. (2017), "Neural Discrete Representation Learning", NeurIPS, arXiv:1711.00937, section 3.1.
    """

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})
    space = "codes"

    def __init__(self, latent_dim: int, latent_shape: Shape, code_sizes: Shape) -> None:
        super().__init__(latent_dim)
        self.num, self.draws = math.prod(latent_shape[1:]), len(code_sizes)

    def forward(self, model: Any = None, c: Tensor | None = None) -> UniformCodes:
        del c
        return UniformCodes(model.posterior.vocabulary, self.num)

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor, temperature: float = 1.0) -> Tensor:
        """Draw ``(num, P R)``, uniform on [0, 1); the temperature has no effect."""
        del temperature
        return torch.rand(num, self.num * self.draws, generator=generator, device=like.device, dtype=like.dtype)
