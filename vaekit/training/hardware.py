"""Fitting a complete spec to the machine and the data that it is trained on."""

from __future__ import annotations

import warnings

import torch

from vaekit import roles
from vaekit.compute.device import choose_device, choose_precision
from vaekit.data.sources import Splits
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


def fit_to_data(spec: RunSpec, splits: Splits, num_processes: int = 1) -> RunSpec:
    """Return the spec with a default batch size that exceeds the training set replaced by the largest possible one.

    A batch size that the user chose is kept; `vaekit.training.checks.check_data` refuses it if it is too large.

    Args:
        spec: A complete spec.
        splits: The data.
        num_processes: The number of processes that share a batch.
    """
    num, default = len(splits.train), spec.train.batch_size
    size = num - num % (num_processes * spec.train.accumulate)
    if num >= default or size == 0 or "batch_size" in spec.train.model_fields_set:
        return spec
    warnings.warn(f"the batch size is {size}, since the training set has fewer images than the default, {default}", stacklevel=2)
    return spec.model_copy(update={"train": spec.train.model_copy(update={"batch_size": size})})


def check_loggers(spec: RunSpec) -> None:
    """Build each logger once to check that its library can be imported.

    Raises:
        UsageError: A library is not installed.
    """
    for logger in spec.train.logger:
        roles.loggers.build(logger)
