"""The discretised logistic likelihood: the probability of 8-bit grey levels."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveFloat
from torch import Tensor

from vaekit.distributions import DiscretizedLogisticPixels
from vaekit.interfaces import Likelihood, Scores, Shape
from vaekit.nn.heads import LogScale, mean_image
from vaekit.roles import likelihoods


@likelihoods("discretized_logistic")
class DiscretizedLogistic(Likelihood):
    """8-bit pixels: a logistic distribution over grey levels, so the ELBO bounds log p(x) and bits per dimension are exact.

    It needs images of bytes. All pixels share one scale, which is learned by default.

    Args:
        scale: Scale of the logistic distribution, in units of the pixel range; the initial value if it is learned.
        learned: Whether the scale is a parameter of the model; a learned scale is bounded below by one grey level, 1/256.

    References:
        Kingma et al. (2016), "Improved Variational Inference with Inverse Autoregressive Flow", NeurIPS, arXiv:1606.04934.
    """

    support: Literal["unit", "real"] = "unit"
    scores: ClassVar[Scores] = "levels"
    factorised: ClassVar[bool] = True

    def __init__(self, data_shape: Shape, *, scale: PositiveFloat = 0.1, learned: bool = True) -> None:
        super().__init__(data_shape)
        self.scale = LogScale(scale, learned)

    def forward(self, params: Tensor) -> DiscretizedLogisticPixels:
        return DiscretizedLogisticPixels(mean_image(params, "sigmoid"), self.scale(), len(self.data_shape))
