"""Base class of the likelihoods that are errors without a scale."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from vaekit.distributions import AbsoluteErrorPixels, SquaredErrorPixels
from vaekit.interfaces import Likelihood, Shape
from vaekit.nn.heads import Link, mean_image


class ErrorLikelihood(Likelihood):
    """A sum of errors over pixels: a negative log-likelihood up to a constant."""

    normalised: ClassVar[bool] = False
    factorised: ClassVar[bool] = True
    pixels: ClassVar[type[SquaredErrorPixels | AbsoluteErrorPixels]]
    """The density, up to the constant."""

    def __init__(self, data_shape: Shape, *, link: Link = "sigmoid") -> None:
        """Store the link.

        Args:
            data_shape: Shape of an example.
            link: How the decoder's output becomes the mean image.
        """
        super().__init__(data_shape)
        self.link: Link = link
        self.support = "unit" if link == "sigmoid" else "real"

    def forward(self, params: Tensor) -> SquaredErrorPixels | AbsoluteErrorPixels:
        return self.pixels(mean_image(params, self.link), len(self.data_shape))
