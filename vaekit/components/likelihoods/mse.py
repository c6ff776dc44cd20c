"""The squared error as a likelihood."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from vaekit.distributions import SquaredErrorPixels
from vaekit.interfaces import Likelihood, Shape
from vaekit.nn.heads import Link, mean_image
from vaekit.roles import likelihoods


@likelihoods("mse")
class MSE(Likelihood):
    """Sum of squared errors: a Gaussian with variance 1/2 up to a constant, so the ELBO is known up to that constant.

    For pixels in [0, 1], a variance of 1/2 is large, which gives the KL much weight. If reconstructions are blurry, use
    `gaussian`, which learns its scale, or a β below 1.

    Args:
        link: How the decoder's output becomes the mean image.
    """

    normalised: ClassVar[bool] = False
    factorised: ClassVar[bool] = True

    def __init__(self, data_shape: Shape, *, link: Link = "sigmoid") -> None:
        super().__init__(data_shape)
        self.link: Link = link
        self.support = "unit" if link == "sigmoid" else "real"

    def forward(self, params: Tensor) -> SquaredErrorPixels:
        return SquaredErrorPixels(mean_image(params, self.link), len(self.data_shape))
