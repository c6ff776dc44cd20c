"""The categorical likelihood: a softmax over grey levels."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from vaekit.distributions import CategoricalPixels
from vaekit.interfaces import Likelihood, Scores, Shape
from vaekit.nn.heads import fields_of, multiply_channels
from vaekit.roles import likelihoods


@likelihoods("categorical")
class Categorical(Likelihood):
    """8-bit pixels with arbitrary probabilities: a softmax over the 256 grey levels of each pixel. Requires uint8 images.

    The decoder outputs a logit for every bin of every pixel. This gives a fully connected decoder many weights; use fewer bins
    to reduce them: the levels of a bin are equally probable, so bits per dimension remain exact. The model has to learn that
    neighbouring levels are similar; `discretized_logistic_mixture` knows this from the start.

    Args:
        bins: Number of equal bins of grey levels.

    References:
        van den Oord et al. (2016), "Pixel Recurrent Neural Networks", ICML, arXiv:1601.06759, section 2.2.
    """

    support: Literal["unit", "real"] = "unit"
    scores: ClassVar[Scores] = "levels"
    factorised: ClassVar[bool] = True

    def __init__(self, data_shape: Shape, *, bins: Literal[2, 4, 8, 16, 32, 64, 128, 256] = 256) -> None:
        super().__init__(data_shape)
        self.bins = bins

    @property
    def param_shape(self) -> Shape:
        return multiply_channels(self.data_shape, self.bins)

    def forward(self, params: Tensor) -> CategoricalPixels:
        ndim = len(self.data_shape)
        return CategoricalPixels(fields_of(params, ndim, self.bins), ndim)
