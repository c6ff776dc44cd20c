"""The power spherical posterior."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import PositiveFloat
from torch import Tensor

from vaekit.distributions.sphere import PowerSpherical, check_sphere, polar
from vaekit.interfaces import Capability, Posterior, Shape
from vaekit.roles import posteriors


@posteriors("power_spherical")
class PowerSphericalPosterior(Posterior):
    """Power spherical density on the unit sphere, ``q(z|x) ∝ (1 + mu · z)^kappa``: much like ``vmf``, with a lighter tail.

    Parameters, draws and KL are as those of ``vmf``, but the normaliser has no Bessel functions. As the density falls to 0 at
    ``-mu``, importance weights are not bounded: prefer ``vmf`` for log p(x) and for ``iwae``.

    Args:
        max_kappa: Bound of the concentration; for a large one, the standard deviation in each direction is ``(2 / kappa)^(1/2)``.

    References:
        De Cao and Aziz (2020), "The Power Spherical Distribution", arXiv:2006.04437.
    """

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})
    space = "sphere"
    default_prior = "hypersphere"

    def __init__(self, latent_dim: int, *, max_kappa: PositiveFloat = 1e4) -> None:
        super().__init__(latent_dim)
        check_sphere(latent_dim)
        self.max_kappa = max_kappa

    @property
    def param_shape(self) -> Shape:
        return (2, self.latent_dim)

    def forward(self, params: Tensor, model: Any = None) -> PowerSpherical:
        del model
        return PowerSpherical(*polar(params, self.max_kappa))
