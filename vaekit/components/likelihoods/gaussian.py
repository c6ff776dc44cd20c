"""The Gaussian likelihood, with a fixed or learned standard deviation."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveFloat
from torch import Tensor

from vaekit.distributions import GaussianPixels
from vaekit.interfaces import Likelihood, Shape
from vaekit.nn.heads import Link, LogScale, mean_image
from vaekit.roles import likelihoods


@likelihoods("gaussian")
class Gaussian(Likelihood):
    """Gaussian pixels ``N(mean(z), sigma^2)`` with one σ for all pixels, learned by default; the default for colour images.

    A learned σ balances reconstruction and KL by maximum likelihood, with no β to tune. It is bounded below by one grey level,
    1/256; otherwise the density of exactly predicted pixels would grow without bound.

    Args:
        sigma: Standard deviation, in units of the pixel range; the initial value if it is learned.
        learned: Whether to learn σ.
        link: Function that maps the decoder's output to the mean image.

    References:
        Rybkin et al. (2021), "Simple and Effective VAE Training with Calibrated Decoders", ICML, arXiv:2006.13202.
    """

    factorised: ClassVar[bool] = True

    def __init__(self, data_shape: Shape, *, sigma: PositiveFloat = 0.3, learned: bool = True, link: Link = "sigmoid") -> None:
        super().__init__(data_shape)
        self.scale = LogScale(sigma, learned)
        self.link: Link = link
        self.support = "unit" if link == "sigmoid" else "real"

    def forward(self, params: Tensor) -> GaussianPixels:
        return GaussianPixels(mean_image(params, self.link), self.scale(), len(self.data_shape))
