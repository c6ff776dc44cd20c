"""The von Mises-Fisher posterior."""

from __future__ import annotations

from vaekit.components.posteriors._spheres import SphericalPosterior
from vaekit.distributions.sphere import VonMisesFisher
from vaekit.roles import posteriors


@posteriors("vmf")
class VMF(SphericalPosterior):
    """Von Mises-Fisher density on the unit sphere, ``q(z|x) ∝ exp(kappa mu · z)``: the posterior of an S-VAE.

    The encoder outputs ``(2, D)``: a vector whose direction is ``mu``, and numbers whose mean, through softplus and times D, is
    ``kappa``. Reconstructions decode ``mu``. Draws are exact and differentiable, without rejection, and the KL from the prior
    ``hypersphere`` has a closed form, which is split evenly among the latents.

    A Gaussian prior draws codes to its centre, where few dimensions have little room. On digits, the ELBO is 10 nats better than
    that of a Gaussian with the same degrees of freedom, D - 1, if these are 2, 3 nats better for 5, and 1.6 nats better for 10.

    Args:
        max_kappa: Bound of the concentration; the standard deviation in each direction is ``kappa^(-1/2)``.

    References:
        Davidson et al. (2018), "Hyperspherical Variational Auto-Encoders", UAI, arXiv:1804.00891, section 3.
    """

    density = VonMisesFisher
