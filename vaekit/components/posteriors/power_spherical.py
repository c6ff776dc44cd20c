"""The power spherical posterior."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from vaekit.distributions import at_least_float32
from vaekit.distributions.sphere import PowerSpherical, normalised
from vaekit.errors import UsageError
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
        if latent_dim < 2:
            raise UsageError(
                "a sphere has no directions in one dimension", given=f"{latent_dim} latent", expected="2 or more", remedy="raise latent_dim"
            )
        self.max_kappa = max_kappa

    @property
    def param_shape(self) -> Shape:
        return (2, self.latent_dim)

    def forward(self, params: Tensor, model: Any = None) -> PowerSpherical:
        del model
        direction, raw = at_least_float32(params).unbind(-2)
        return PowerSpherical(normalised(direction), (self.latent_dim * F.softplus(raw.mean(-1))).clamp(max=self.max_kappa))
