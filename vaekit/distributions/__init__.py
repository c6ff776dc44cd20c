"""Distributions and densities, which posteriors, priors and likelihoods make from tensors."""

from vaekit.distributions.counts import NegativeBinomialCounts, PoissonCounts
from vaekit.distributions.delta import Delta
from vaekit.distributions.density import (
    Density,
    Distribution,
    FactorisedDensity,
    QuantisedDensity,
    SequentialDensity,
    at_least_float32,
    log_prob_in_turn,
    sum_event,
)
from vaekit.distributions.gaussian import DiagonalGaussian, StandardNormal
from vaekit.distributions.kl import kl_per_dim, register_kl
from vaekit.distributions.levels import CategoricalPixels, DiscretizedLogisticMixturePixels
from vaekit.distributions.mixture import FullGaussianMixture, GaussianMixture, MixtureOf
from vaekit.distributions.observed import Observed
from vaekit.distributions.pixels import (
    LEVEL,
    BernoulliPixels,
    DiscretizedLogisticPixels,
    GaussianPixels,
    LaplacePixels,
    SquaredErrorPixels,
)
from vaekit.distributions.quantised import Quantised, UniformCodes, from_positions, to_positions
from vaekit.distributions.student import StudentTPixels
from vaekit.distributions.unit import ContinuousBernoulliPixels

__all__ = [
    "LEVEL",
    "BernoulliPixels",
    "CategoricalPixels",
    "ContinuousBernoulliPixels",
    "Delta",
    "Density",
    "DiagonalGaussian",
    "DiscretizedLogisticMixturePixels",
    "DiscretizedLogisticPixels",
    "Distribution",
    "FactorisedDensity",
    "FullGaussianMixture",
    "GaussianMixture",
    "GaussianPixels",
    "LaplacePixels",
    "MixtureOf",
    "NegativeBinomialCounts",
    "Observed",
    "PoissonCounts",
    "Quantised",
    "QuantisedDensity",
    "SequentialDensity",
    "SquaredErrorPixels",
    "StandardNormal",
    "StudentTPixels",
    "UniformCodes",
    "at_least_float32",
    "from_positions",
    "kl_per_dim",
    "log_prob_in_turn",
    "register_kl",
    "sum_event",
    "to_positions",
]
