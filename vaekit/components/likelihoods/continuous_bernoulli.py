"""The continuous Bernoulli likelihood: a normalised density of grey pixels."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from vaekit.distributions import ContinuousBernoulliPixels, at_least_float32
from vaekit.interfaces import Likelihood
from vaekit.roles import likelihoods


@likelihoods("continuous_bernoulli")
class ContinuousBernoulli(Likelihood):
    """Continuous Bernoulli pixels: the cross-entropy of `bce` plus the constant that makes it a density on [0, 1].

    The ELBO on grey pixels is therefore a bound, and bits per dimension are defined. The density has its mode at black or
    white; its mean, the decoded image, is closer to grey than the sigmoid of the logits.

    References:
        Loaiza-Ganem and Cunningham (2019), "The Continuous Bernoulli: Fixing a Pervasive Error in Variational Autoencoders",
            NeurIPS, arXiv:1907.06845.
    """

    support: Literal["unit", "real"] = "unit"
    factorised: ClassVar[bool] = True

    def forward(self, params: Tensor) -> ContinuousBernoulliPixels:
        return ContinuousBernoulliPixels(at_least_float32(params), len(self.data_shape))
