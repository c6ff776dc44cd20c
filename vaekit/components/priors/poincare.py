"""The wrapped normal prior on the Poincaré ball."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pydantic import PositiveFloat
from torch import Tensor

from vaekit.distributions.poincare import WrappedNormal
from vaekit.interfaces import Capability, Prior
from vaekit.roles import priors


@priors("poincare")
class Poincare(Prior):
    """A wrapped normal at the centre of the Poincaré ball: the prior of a Poincaré VAE.

    The volume of hyperbolic space grows exponentially with the radius, like the number of leaves of a tree with its depth, so
    there is room for hierarchies near the boundary. As the curvature approaches 0, the space becomes flat and the prior normal,
    with points at half the distance from 0.

    Args:
        curvature: Magnitude c of the curvature -c; the ball has radius ``c^(-1/2)``.
        scale: Standard deviation in the tangent space.

    References:
        Mathieu et al. (2019), "Continuous Hierarchical Representations with Poincaré Variational Auto-Encoders", NeurIPS,
            arXiv:1901.06033, section 3.
    """

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})
    space = "poincare"
    zero: Tensor
    c: Tensor
    log_std: Tensor

    def __init__(self, latent_dim: int, *, curvature: PositiveFloat = 1.0, scale: PositiveFloat = 1.0) -> None:
        super().__init__(latent_dim)
        self.register_buffer("zero", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("c", torch.tensor(float(curvature)), persistent=False)
        self.register_buffer("log_std", torch.full((latent_dim,), math.log(scale)), persistent=False)

    def forward(self, model: Any = None, c: Tensor | None = None) -> WrappedNormal:
        del model, c
        return WrappedNormal(self.zero, self.log_std, self.c)
