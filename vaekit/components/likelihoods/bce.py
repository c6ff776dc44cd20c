"""The Bernoulli likelihood, as binary cross-entropy on logits."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from vaekit.distributions import BernoulliPixels, at_least_float32
from vaekit.interfaces import Likelihood
from vaekit.roles import likelihoods


@likelihoods("bce")
class BCE(Likelihood):
    """Bernoulli pixels: binary cross-entropy on logits. A log-likelihood on binary pixels only.

    On grey pixels it is a cross-entropy: training works, and reports call it so, not a log-likelihood. Pixels outside [0, 1]
    are refused.

    Reference:
        Kingma & Welling, Auto-Encoding Variational Bayes, ICLR 2014, appendix C.1.
    """

    support: Literal["unit", "real"] = "unit"
    continuous: ClassVar[bool] = False

    def forward(self, params: Tensor) -> BernoulliPixels:
        return BernoulliPixels(at_least_float32(params))
