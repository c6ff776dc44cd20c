"""Base class of posteriors on the sphere."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from pydantic import PositiveFloat
from torch import Tensor

from vaekit.distributions.sphere import PowerSpherical, VonMisesFisher, check_sphere, polar
from vaekit.interfaces import Capability, Posterior, Shape


class SphericalPosterior(Posterior):
    """A density on the unit sphere with a mean direction and a concentration.

    The decoder receives ``sqrt(D) z``, whose elements have a mean square of 1, like those of a standard normal.
    """

    provides: ClassVar[frozenset[str]] = frozenset({Capability.LOG_PROB})
    space = "sphere"
    default_prior = "hypersphere"
    density: ClassVar[type[VonMisesFisher] | type[PowerSpherical]]
    """The density, given mean directions and concentrations."""

    def __init__(self, latent_dim: int, *, max_kappa: PositiveFloat = 1e4) -> None:
        super().__init__(latent_dim)
        check_sphere(latent_dim)
        self.max_kappa = max_kappa

    @property
    def param_shape(self) -> Shape:
        return (2, self.latent_dim)

    def decoder_input(self, z: Tensor) -> Tensor:
        return math.sqrt(self.latent_dim) * z

    def forward(self, params: Tensor, model: Any = None) -> VonMisesFisher | PowerSpherical:
        del model
        return self.density(*polar(params, self.max_kappa))
