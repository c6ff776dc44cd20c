"""Distributions and densities, which posteriors, priors and likelihoods make from tensors."""

from vaekit.distributions.delta import Delta
from vaekit.distributions.density import (
    Density,
    DensityOfDraws,
    Distribution,
    FactorisedDensity,
    QuantisedDensity,
    SequentialDensity,
    at_least_float32,
    full_precision,
    log_prob_in_turn,
    rsample_and_log_prob,
    sum_event,
)
from vaekit.distributions.gaussian import DiagonalGaussian, FullGaussian, StandardNormal
from vaekit.distributions.kl import kl_per_dim, register_kl
from vaekit.distributions.mixture import GaussianMixture, MixtureOf
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

__all__ = [
    "LEVEL",
    "BernoulliPixels",
    "Delta",
    "Density",
    "DensityOfDraws",
    "DiagonalGaussian",
    "DiscretizedLogisticPixels",
    "Distribution",
    "FactorisedDensity",
    "FullGaussian",
    "GaussianMixture",
    "GaussianPixels",
    "LaplacePixels",
    "MixtureOf",
    "Observed",
    "Quantised",
    "QuantisedDensity",
    "SequentialDensity",
    "SquaredErrorPixels",
    "StandardNormal",
    "UniformCodes",
    "at_least_float32",
    "from_positions",
    "full_precision",
    "kl_per_dim",
    "log_prob_in_turn",
    "register_kl",
    "rsample_and_log_prob",
    "sum_event",
    "to_positions",
]
