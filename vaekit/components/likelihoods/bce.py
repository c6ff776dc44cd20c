"""The Bernoulli likelihood, as binary cross-entropy on logits."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from vaekit.distributions import BernoulliPixels, at_least_float32
from vaekit.interfaces import Likelihood, Scores
from vaekit.roles import likelihoods


@likelihoods("bce")
class BCE(Likelihood):
    """Bernoulli pixels: binary cross-entropy on logits. A log-likelihood on binary pixels only.

    On grey pixels, training works, but the value is a cross-entropy, and reports call it that. Pixels outside [0, 1] are refused.

    References:
        Kingma and Welling (2014), "Auto-Encoding Variational Bayes", ICLR, arXiv:1312.6114, appendix C.1.
    """

    support: Literal["unit", "real"] = "unit"
    scores: ClassVar[Scores] = "binary"
    factorised: ClassVar[bool] = True

    def forward(self, params: Tensor) -> BernoulliPixels:
        return BernoulliPixels(at_least_float32(params), len(self.data_shape))
