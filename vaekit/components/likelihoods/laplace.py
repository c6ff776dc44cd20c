"""The Laplace likelihood: absolute errors."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveFloat
from torch import Tensor

from vaekit.distributions import LaplacePixels
from vaekit.interfaces import Likelihood, Shape
from vaekit.nn.heads import Link, LogScale, mean_image
from vaekit.roles import likelihoods


@likelihoods("laplace")
class Laplace(Likelihood):
    """Laplace pixels: absolute errors with one scale b, learned by default; less blur at edges than with a Gaussian.

    Args:
        scale: Mean absolute deviation b, in units of the pixel range; the initial value if it is learned.
        learned: Whether to learn b; a learned b is bounded below by one grey level, 1/256.
        link: Function that maps the decoder's output to the mean image.
    """

    factorised: ClassVar[bool] = True

    def __init__(self, data_shape: Shape, *, scale: PositiveFloat = 0.3, learned: bool = True, link: Link = "sigmoid") -> None:
        super().__init__(data_shape)
        self.scale = LogScale(scale, learned)
        self.link: Link = link
        self.support = "unit" if link == "sigmoid" else "real"

    def forward(self, params: Tensor) -> LaplacePixels:
        return LaplacePixels(mean_image(params, self.link), self.scale(), len(self.data_shape))
