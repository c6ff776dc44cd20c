"""The Poisson likelihood of counts."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from vaekit.distributions import PoissonCounts, at_least_float32
from vaekit.interfaces import Likelihood, Scores
from vaekit.nn.heads import MAX_LOG_RATE, log_counts, softly_below
from vaekit.roles import likelihoods


@likelihoods("poisson")
class Poisson(Likelihood):
    """Poisson counts: the decoder emits the log of each rate, at most 20. For tables of non-negative integers.

    The encoder sees ``log(1 + x)``. The variance of a count equals its mean. Where the counts of similar examples vary more, use
    `negative_binomial`.
    """

    scores: ClassVar[Scores] = "counts"
    factorised: ClassVar[bool] = True

    def encoder_input(self, x: Tensor) -> Tensor:
        return log_counts(x)

    def forward(self, params: Tensor) -> PoissonCounts:
        return PoissonCounts(softly_below(at_least_float32(params), MAX_LOG_RATE), len(self.data_shape))
