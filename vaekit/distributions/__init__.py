"""Distributions and densities, which posteriors, priors and likelihoods make from tensors."""

from vaekit.distributions.delta import Delta
from vaekit.distributions.density import (
    Density,
    Distribution,
    FactorisedDensity,
    QuantisedDensity,
    SequentialDensity,
    at_least_float32,
    full_precision,
    log_prob_in_turn,
    sum_event,
)
from vaekit.distributions.gaussian import DiagonalGaussian, StandardNormal
from vaekit.distributions.kl import kl_per_dim, register_kl
from vaekit.distributions.mixture import GaussianMixture, MixtureOf
from vaekit.distributions.observed import Observed
from vaekit.distributions.one_hot import GaussianAndOneHot, OneHot
from vaekit.distributions.pixels import (
    LEVEL,
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

__all__ = [
    "LEVEL",
    "BernoulliPixels",
    "Codebooks",
    "Delta",
    "Density",
    "DiagonalGaussian",
    "DiscretizedLogisticPixels",
    "Distribution",
    "FactorisedDensity",
    "GaussianAndOneHot",
    "GaussianMixture",
    "GaussianPixels",
    "LaplacePixels",
    "Levels",
    "MixtureOf",
    "Observed",
    "OneHot",
    "Quantised",
    "QuantisedDensity",
    "SequentialDensity",
    "SquaredErrorPixels",
    "StandardNormal",
    "UniformCodes",
    "Vocabulary",
    "at_least_float32",
    "from_positions",
    "full_precision",
    "kl_per_dim",
    "log_prob_in_turn",
    "nearest",
    "register_kl",
    "sum_event",
    "to_positions",
]
