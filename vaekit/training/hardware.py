"""Fitting a complete spec to the machine that trains it."""

from __future__ import annotations

import torch

from vaekit import roles
from vaekit.compute.device import choose_device, choose_precision
from vaekit.specs.models import RunSpec


def fit_to_machine(spec: RunSpec, device: str | None = None) -> RunSpec:
    """Return the spec with device, precision and number of threads resolved for this machine.

    Args:
        spec: A complete spec.
        device: Replaces the spec's device; ``compile`` is then reset to ``auto``.

    Raises:
        UsageError: The device is not available.
    """
    train = spec.train if device is None else spec.train.model_copy(update={"device": device, "compile": "auto"})
    chosen = choose_device(train.device)
    settled = {
        "device": chosen,
        "precision": choose_precision(train.precision, chosen),
        "threads": train.threads or torch.get_num_threads(),
    }
    return spec.model_copy(update={"train": train.model_copy(update=settled)})


def check_loggers(spec: RunSpec) -> None:
    """Build each logger once to check that its library can be imported.

    Raises:
        UsageError: A library is not installed.
    """
    for logger in spec.train.logger:
        roles.loggers.build(logger)
