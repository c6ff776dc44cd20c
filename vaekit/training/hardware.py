"""A whole spec, fitted to the machine that is to train it."""

from __future__ import annotations

import torch

from vaekit import roles
from vaekit.compute.device import choose_device, choose_precision
from vaekit.specs.models import RunSpec


def fit_to_machine(spec: RunSpec, device: str | None = None) -> RunSpec:
    """Return the spec with device, precision and number of threads as this machine offers them.

    Args:
        spec: A whole spec.
        device: Replaces the spec's device; how steps are launched there is then chosen again.

    Raises:
        UsageError: The device is not there.
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
    """Build each logger once, which imports its library.

    Raises:
        UsageError: A library is not installed.
    """
    for logger in spec.train.logger:
        roles.loggers.build(logger)
