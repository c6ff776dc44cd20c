"""vaekit: variational autoencoders assembled from interchangeable parts. Importing it does not import torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vaekit._version import __version__

if TYPE_CHECKING:
    from vaekit.drawing.picture import Picture as Picture
    from vaekit.errors import VaekitError as VaekitError
    from vaekit.evaluation.features import FeatureRequest as FeatureRequest
    from vaekit.export.exporter import Exporter as Exporter
    from vaekit.interfaces import Aim as Aim
    from vaekit.interfaces import Backbone as Backbone
    from vaekit.interfaces import Capability as Capability
    from vaekit.interfaces import Condition as Condition
    from vaekit.interfaces import Dataset as Dataset
    from vaekit.interfaces import Likelihood as Likelihood
    from vaekit.interfaces import Loss as Loss
    from vaekit.interfaces import Optim as Optim
    from vaekit.interfaces import Posterior as Posterior
    from vaekit.interfaces import Prior as Prior
    from vaekit.model.vae import VAE as VAE
    from vaekit.roles import conditions as conditions
    from vaekit.roles import datasets as datasets
    from vaekit.roles import decoders as decoders
    from vaekit.roles import encoders as encoders
    from vaekit.roles import exporters as exporters
    from vaekit.roles import likelihoods as likelihoods
    from vaekit.roles import loggers as loggers
    from vaekit.roles import losses as losses
    from vaekit.roles import pictures as pictures
    from vaekit.roles import posteriors as posteriors
    from vaekit.roles import priors as priors
    from vaekit.run import Run as Run
    from vaekit.run import distill as distill
    from vaekit.run import fit_prior as fit_prior
    from vaekit.run import import_diffusers as import_diffusers
    from vaekit.run import load as load
    from vaekit.run import resume as resume
    from vaekit.run import train as train
    from vaekit.sweeps.grid import resume_sweep as resume_sweep
    from vaekit.sweeps.grid import sweep as sweep
    from vaekit.sweeps.search import search as search
    from vaekit.sweeps.space import Range as Range
    from vaekit.trace import Site as Site
    from vaekit.trace import Trace as Trace
    from vaekit.training.logger import Logger as Logger

_HOMES = {
    "drawing.picture": ("Picture",),
    "errors": ("VaekitError",),
    "evaluation.features": ("FeatureRequest",),
    "export.exporter": ("Exporter",),
    "interfaces": ("Aim", "Backbone", "Capability", "Condition", "Dataset", "Likelihood", "Loss", "Optim", "Posterior", "Prior"),
    "model.vae": ("VAE",),
    "roles": (
        "conditions",
        "datasets",
        "decoders",
        "encoders",
        "exporters",
        "likelihoods",
        "loggers",
        "losses",
        "pictures",
        "posteriors",
        "priors",
    ),
    "run": ("Run", "distill", "fit_prior", "import_diffusers", "load", "resume", "train"),
    "sweeps.grid": ("resume_sweep", "sweep"),
    "sweeps.search": ("search",),
    "sweeps.space": ("Range",),
    "trace": ("Site", "Trace"),
    "training.logger": ("Logger",),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}
__all__ = ["__version__", *_MODULES]  # noqa: PLE0604 - the table above is the one list of names


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'vaekit' has no attribute {name!r}")
    return getattr(importlib.import_module(f"vaekit.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
