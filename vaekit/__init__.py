"""vaekit: variational autoencoders assembled from interchangeable parts. Importing it does not import torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vaekit.errors import VaekitError as VaekitError
    from vaekit.interfaces import Backbone as Backbone
    from vaekit.interfaces import Capability as Capability
    from vaekit.interfaces import Dataset as Dataset
    from vaekit.interfaces import Exporter as Exporter
    from vaekit.interfaces import Likelihood as Likelihood
    from vaekit.interfaces import Logger as Logger
    from vaekit.interfaces import Loss as Loss
    from vaekit.interfaces import Posterior as Posterior
    from vaekit.interfaces import Prior as Prior
    from vaekit.registry import datasets as datasets
    from vaekit.registry import decoders as decoders
    from vaekit.registry import encoders as encoders
    from vaekit.registry import exporters as exporters
    from vaekit.registry import likelihoods as likelihoods
    from vaekit.registry import loggers as loggers
    from vaekit.registry import losses as losses
    from vaekit.registry import posteriors as posteriors
    from vaekit.registry import priors as priors
    from vaekit.run import Run as Run
    from vaekit.run import load as load
    from vaekit.run import resume as resume
    from vaekit.run import train as train
    from vaekit.searches import search as search
    from vaekit.sweeps import Range as Range
    from vaekit.sweeps import resume_sweep as resume_sweep
    from vaekit.sweeps import sweep as sweep
    from vaekit.trace import Site as Site
    from vaekit.trace import Trace as Trace
    from vaekit.vae import VAE as VAE

_HOMES = {
    "errors": ("VaekitError",),
    "interfaces": ("Backbone", "Capability", "Dataset", "Exporter", "Likelihood", "Logger", "Loss", "Posterior", "Prior"),
    "registry": ("datasets", "decoders", "encoders", "exporters", "likelihoods", "loggers", "losses", "posteriors", "priors"),
    "run": ("Run", "load", "resume", "train"),
    "searches": ("search",),
    "sweeps": ("Range", "resume_sweep", "sweep"),
    "trace": ("Site", "Trace"),
    "vae": ("VAE",),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}
__all__ = ["__version__", *_MODULES]  # noqa: PLE0604 - the table above is the one list of names


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'vaekit' has no attribute {name!r}")
    return getattr(importlib.import_module(f"vaekit.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
