"""A mixture of discretised logistic distributions: several modes for each pixel."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from vaekit.distributions import DiscretizedLogisticMixturePixels
from vaekit.interfaces import Likelihood, Scores, Shape
from vaekit.nn.heads import MIN_SCALE, fields_of, multiply_channels, soft_lower_bound, soft_upper_bound
from vaekit.roles import likelihoods
from vaekit.schema import Few

MAX_SCALE, SPREAD = 10.0, 2.0
"""Upper bound of the scales, where pixels are black or white, and the logits between which the locations start."""


@likelihoods("discretized_logistic_mixture")
class DiscretizedLogisticMixture(Likelihood):
    """8-bit pixels: each is a mixture of logistic distributions over grey levels, so it can be either dark or light.

    The decoder outputs the weight, location and log scale of every component. Unlike in PixelCNN++, channels are independent
    given the code. Requires uint8 images; the ELBO bounds log p(x), and bits per dimension are exact.

    Args:
        num_components: Number of components.
        scale: Scale for a decoder output of 0, in units of the pixel range; bounded below by one grey level, 1/256.

    References:
        Salimans et al. (2017), "PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood and Other
            Modifications", ICLR, arXiv:1701.05517, equation 2.
    """

    support: Literal["unit", "real"] = "unit"
    scores: ClassVar[Scores] = "levels"
    factorised: ClassVar[bool] = True
    start: Tensor

    def __init__(
        self,
        data_shape: Shape,
        *,
        num_components: Few = 5,
        scale: Annotated[PositiveFloat, Field(lt=MAX_SCALE)] = 0.1,
    ) -> None:
        super().__init__(data_shape)
        self.num, self.log_scale = num_components, math.log(scale)
        start = torch.linspace(-SPREAD, SPREAD, num_components) if num_components > 1 else torch.zeros(1)
        self.register_buffer("start", start.view(-1, *[1] * len(self.data_shape)), persistent=False)

    @property
    def param_shape(self) -> Shape:
        return multiply_channels(self.data_shape, 3 * self.num)

    def forward(self, params: Tensor) -> DiscretizedLogisticMixturePixels:
        ndim = len(self.data_shape)
        logits, location, log_scale = fields_of(params, ndim, 3, self.num).unbind(-ndim - 2)
        log_scale = soft_upper_bound(soft_lower_bound(self.log_scale + log_scale, math.log(MIN_SCALE)), math.log(MAX_SCALE))
        return DiscretizedLogisticMixturePixels(logits, torch.sigmoid(location + self.start), log_scale, ndim)
