"""The Poisson likelihood of counts."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from vaekit.distributions import PoissonCounts, at_least_float32
from vaekit.interfaces import Likelihood, Scores
from vaekit.nn.heads import MAX_LOG_RATE, log_counts, soft_upper_bound
from vaekit.roles import likelihoods


@likelihoods("poisson")
class Poisson(Likelihood):
    """Poisson counts, for tables of non-negative integers: the decoder outputs the log of each rate, at most 20.

    The encoder sees ``log(1 + x)``. The variance of a count equals its mean. For overdispersed counts, use `negative_binomial`.
    """

    scores: ClassVar[Scores] = "counts"
    factorised: ClassVar[bool] = True

    def encoder_input(self, x: Tensor) -> Tensor:
        return log_counts(x)

    def forward(self, params: Tensor) -> PoissonCounts:
        return PoissonCounts(soft_upper_bound(at_least_float32(params), MAX_LOG_RATE), len(self.data_shape))
