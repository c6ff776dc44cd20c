"""The Gaussian likelihood with a standard deviation for each pixel."""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import PositiveFloat
from torch import Tensor

from vaekit.distributions import GaussianPixels
from vaekit.interfaces import Likelihood, Shape
from vaekit.nn.heads import MIN_SCALE, Link, fields_of, mean_image, multiply_channels, soft_lower_bound
from vaekit.roles import likelihoods


@likelihoods("heteroscedastic_gaussian")
class HeteroscedasticGaussian(Likelihood):
    """Gaussian pixels ``N(mean(z), sigma(z)^2)``: the decoder also outputs a log σ for each pixel.

    Constant pixels drive σ to its lower bound, one grey level (1/256), and then dominate the likelihood: for images with a
    constant background, samples may be worse than with the single σ of `gaussian`. Well suited to tables and signals.

    Args:
        sigma: Standard deviation for a decoder output of 0, in units of the pixel range.
        link: Function that maps the decoder's output to the mean image.

    References:
        Kingma and Welling (2014), "Auto-Encoding Variational Bayes", ICLR, arXiv:1312.6114, appendix C.2.
    """

    factorised: ClassVar[bool] = True

    def __init__(self, data_shape: Shape, *, sigma: PositiveFloat = 0.3, link: Link = "sigmoid") -> None:
        super().__init__(data_shape)
        self.log_sigma, self.link = math.log(sigma), link
        self.support = "unit" if link == "sigmoid" else "real"

    @property
    def param_shape(self) -> Shape:
        return multiply_channels(self.data_shape, 2)

    def forward(self, params: Tensor) -> GaussianPixels:
        ndim = len(self.data_shape)
        mean, log_sigma = fields_of(params, ndim, 2).unbind(-ndim - 1)
        log_scale = soft_lower_bound(self.log_sigma + log_sigma, math.log(MIN_SCALE))
        return GaussianPixels(mean_image(mean, self.link), log_scale, ndim)
