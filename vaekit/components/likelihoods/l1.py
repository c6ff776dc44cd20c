"""The absolute error as a likelihood."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from vaekit.distributions import AbsoluteErrorPixels
from vaekit.interfaces import Likelihood, Shape
from vaekit.nn.heads import Link, mean_image
from vaekit.roles import likelihoods


@likelihoods("l1")
class L1(Likelihood):
    """Sum of absolute errors: a Laplace density with a scale of 1 up to a constant, so the ELBO is known up to that constant.

    For pixels in [0, 1], a scale of 1 is large, which gives the KL much weight: autoencoders of latent diffusion have a β of
    1e-6. `laplace` learns its scale instead.

    Args:
        link: How the decoder's output becomes the mean image.

    References:
        Rombach et al. (2022), "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR, arXiv:2112.10752, appendix G.
    """

    normalised: ClassVar[bool] = False
    factorised: ClassVar[bool] = True

    def __init__(self, data_shape: Shape, *, link: Link = "sigmoid") -> None:
        super().__init__(data_shape)
        self.link: Link = link
        self.support = "unit" if link == "sigmoid" else "real"

    def forward(self, params: Tensor) -> AbsoluteErrorPixels:
        return AbsoluteErrorPixels(mean_image(params, self.link), len(self.data_shape))
