"""The categorical likelihood: a softmax over grey levels."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from vaekit.distributions import CategoricalPixels
from vaekit.interfaces import Likelihood, Scores, Shape
from vaekit.nn.heads import fields_of, widened_by
from vaekit.roles import likelihoods


@likelihoods("categorical")
class Categorical(Likelihood):
    """8-bit pixels with arbitrary probabilities: a softmax over the 256 grey levels of each pixel. It needs images of bytes.

    The decoder emits a logit for every bin of every pixel. A fully connected decoder then has many weights, and fewer bins help:
    the levels of a bin are equally probable, so bits per dimension remain exact. The model has to learn that neighbouring levels
    are similar; `discretized_logistic_mixture` has that built in.

    Args:
        bins: Number of equal bins that the grey levels are divided into.

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
        return widened_by(self.data_shape, self.bins)

    def forward(self, params: Tensor) -> CategoricalPixels:
        ndim = len(self.data_shape)
        return CategoricalPixels(fields_of(params, ndim, self.bins), ndim)
