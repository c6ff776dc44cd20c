"""The squared error as a likelihood."""

from __future__ import annotations

from vaekit.components.likelihoods._errors import ErrorLikelihood
from vaekit.distributions import SquaredErrorPixels
from vaekit.roles import likelihoods


@likelihoods("mse")
class MSE(ErrorLikelihood):
    """Sum of squared errors: a Gaussian with variance 1/2 up to a constant, so the ELBO is known up to that constant.

    For pixels in [0, 1], a variance of 1/2 is large, so the KL dominates. If reconstructions are blurry, use `gaussian`, which
    learns its scale, or β < 1.
    """

    pixels = SquaredErrorPixels
