"""The absolute error as a likelihood."""

from __future__ import annotations

from vaekit.components.likelihoods._errors import ErrorLikelihood
from vaekit.distributions import AbsoluteErrorPixels
from vaekit.roles import likelihoods


@likelihoods("l1")
class L1(ErrorLikelihood):
    """Sum of absolute errors: a Laplace density with a scale of 1 up to a constant, so the ELBO is known up to that constant.

    For pixels in [0, 1], a scale of 1 is large, so the KL dominates: the autoencoders of latent diffusion use β = 1e-6.
    `laplace` learns its scale instead.

    References:
        Rombach et al. (2022), "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR, arXiv:2112.10752, appendix G.
    """

    pixels = AbsoluteErrorPixels
