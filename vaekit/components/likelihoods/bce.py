"""The Bernoulli likelihood, as binary cross-entropy on logits."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from vaekit.distributions import BernoulliPixels, at_least_float32
from vaekit.interfaces import Likelihood, Scores
from vaekit.roles import likelihoods


@likelihoods("bce")
class BCE(Likelihood):
    """Bernoulli pixels: binary cross-entropy with logits; a log-likelihood only for binary pixels.

    Grey pixels can be used for training, but the value is then only a cross-entropy and reported as such. Pixels outside [0, 1]
    are rejected.

    References:
        Kingma and Welling (2014), "Auto-Encoding Variational Bayes", ICLR, arXiv:1312.6114, appendix C.1.
    """

    support: Literal["unit", "real"] = "unit"
    scores: ClassVar[Scores] = "binary"
    factorised: ClassVar[bool] = True

    def forward(self, params: Tensor) -> BernoulliPixels:
        return BernoulliPixels(at_least_float32(params), len(self.data_shape))
