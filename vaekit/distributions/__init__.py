"""Distributions and densities: the outputs of posteriors, priors and likelihoods."""

from vaekit.distributions.counts import NegativeBinomialCounts, PoissonCounts
from vaekit.distributions.delta import Delta
from vaekit.distributions.density import (
    AutoregressiveDensity,
    Curved,
    Density,
    DensityOfDraws,
    Distribution,
    FactorisedDensity,
    QuantisedDensity,
    at_least_float32,
    conditional_log_probs,
    full_precision,
    rsample_and_log_prob,
    sum_event,
)
from vaekit.distributions.gaussian import DiagonalGaussian, FullGaussian, StandardNormal
from vaekit.distributions.kl import kl_per_dim, register_kl
from vaekit.distributions.levels import CategoricalPixels, DiscretizedLogisticMixturePixels
from vaekit.distributions.mixture import FullGaussianMixture, GaussianMixture, MixtureOf
from vaekit.distributions.observed import Observed
from vaekit.distributions.one_hot import GaussianAndOneHot, OneHot, one_hot
from vaekit.distributions.pixels import (
    LEVEL,
    AbsoluteErrorPixels,
    BernoulliPixels,
    DiscretizedLogisticPixels,
    GaussianPixels,
    LaplacePixels,
    SquaredErrorPixels,
)
from vaekit.distributions.quantised import (
    Codebooks,
    Levels,
    Quantised,
    UniformCodes,
    Vocabulary,
    from_positions,
    nearest,
    to_positions,
)
from vaekit.distributions.rectified import VelocityFlow
from vaekit.distributions.student import StudentTPixels
from vaekit.distributions.unit import ContinuousBernoulliPixels

__all__ = [
    "LEVEL",
    "AbsoluteErrorPixels",
    "AutoregressiveDensity",
    "BernoulliPixels",
    "CategoricalPixels",
    "Codebooks",
    "ContinuousBernoulliPixels",
    "Curved",
    "Delta",
    "Density",
    "DensityOfDraws",
    "DiagonalGaussian",
    "DiscretizedLogisticMixturePixels",
    "DiscretizedLogisticPixels",
    "Distribution",
    "FactorisedDensity",
    "FullGaussian",
    "FullGaussianMixture",
    "GaussianAndOneHot",
    "GaussianMixture",
    "GaussianPixels",
    "LaplacePixels",
    "Levels",
    "MixtureOf",
    "NegativeBinomialCounts",
    "Observed",
    "OneHot",
    "PoissonCounts",
    "Quantised",
    "QuantisedDensity",
    "SquaredErrorPixels",
    "StandardNormal",
    "StudentTPixels",
    "UniformCodes",
    "VelocityFlow",
    "Vocabulary",
    "at_least_float32",
    "conditional_log_probs",
    "from_positions",
    "full_precision",
    "kl_per_dim",
    "nearest",
    "one_hot",
    "register_kl",
    "rsample_and_log_prob",
    "sum_event",
    "to_positions",
]
