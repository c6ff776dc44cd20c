"""The negative binomial likelihood of counts."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from vaekit.distributions import NegativeBinomialCounts, at_least_float32
from vaekit.interfaces import Likelihood, Scores, Shape
from vaekit.nn.heads import MAX_LOG_RATE, SPEEDUP, log_counts, soft_upper_bound
from vaekit.roles import likelihoods

MAX_SHAPE = 1000.0
"""Upper bound of the inverse dispersion: counts are nearly Poisson, and differences of log Γ still precise in float32."""


@likelihoods("negative_binomial")
class NegativeBinomial(Likelihood):
    """Counts of mean μ and variance ``μ + μ²/r``: Poisson counts with varying rates, such as gene expression in cells.

    The encoder sees ``log(1 + x)``. The decoder outputs log μ, at most 20. The inverse dispersion r of each feature is learned.
    Library size is not modelled: the code has to encode the total count of an example.

    References:
        Lopez et al. (2018), "Deep Generative Modeling for Single-Cell Transcriptomics", Nature Methods.
    """

    scores: ClassVar[Scores] = "counts"
    factorised: ClassVar[bool] = True

    def __init__(self, data_shape: Shape) -> None:
        super().__init__(data_shape)
        self.log_shape = nn.Parameter(torch.zeros(math.prod(self.data_shape)))

    def encoder_input(self, x: Tensor) -> Tensor:
        return log_counts(x)

    def forward(self, params: Tensor) -> NegativeBinomialCounts:
        log_mean = soft_upper_bound(at_least_float32(params), MAX_LOG_RATE)
        log_shape = soft_upper_bound(SPEEDUP * self.log_shape, math.log(MAX_SHAPE)).view(self.data_shape)
        return NegativeBinomialCounts(log_mean, log_shape, len(self.data_shape))

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor) -> Tensor:
        """Draw ``(num, 2, *data_shape)``, uniform on [0, 1)."""
        return torch.rand(num, 2, *self.data_shape, generator=generator, device=like.device, dtype=like.dtype)
