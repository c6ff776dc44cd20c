"""The power spherical posterior."""

from __future__ import annotations

from vaekit.components.posteriors._spheres import SphericalPosterior
from vaekit.distributions.sphere import PowerSpherical
from vaekit.roles import posteriors


@posteriors("power_spherical")
class PowerSphericalPosterior(SphericalPosterior):
    """Power spherical density on the unit sphere, ``q(z|x) ∝ (1 + mu · z)^kappa``: similar to ``vmf``, with a lighter tail.

    Parameters, sampling and KL are analogous to ``vmf``, but the normaliser involves no Bessel functions. Since the density
    vanishes at ``-mu``, importance weights are unbounded: prefer ``vmf`` for log p(x) and for ``iwae``.

    Args:
        max_kappa: Bound of the concentration; for a large one, the standard deviation in each direction is ``(2 / kappa)^(1/2)``.

    References:
        De Cao and Aziz (2020), "The Power Spherical Distribution", arXiv:2006.04437.
    """

    density = PowerSpherical
