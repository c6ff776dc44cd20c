"""Fitting a complete spec to the machine, the data and the model."""

from __future__ import annotations

import math

import torch

from vaekit import roles
from vaekit.compute.device import choose_device
from vaekit.data.batches import full_batches
from vaekit.data.sources import Splits
from vaekit.model.objective import Objective
from vaekit.specs.models import RunSpec, TrainSpec
from vaekit.training.compilation import choose_compilation
from vaekit.training.precision import choose_precision

STEPS_PER_EPOCH, SMALLEST = 48, 16
"""The fewest steps of an epoch with a default batch size, and the smallest such size."""


def fit_to_machine(spec: RunSpec, device: str | None = None) -> RunSpec:
    """Return the spec with device and number of threads resolved for this machine.

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
        "threads": train.threads or torch.get_num_threads(),
    }
    return spec.model_copy(update={"train": train.model_copy(update=settled)})


def fit_to_data(spec: RunSpec, splits: Splits, num_processes: int = 1) -> RunSpec:
    """Return the spec with values that depend on data and files: a batch size that fits, epochs, and the digests of files.

    The default batch size is halved until an epoch has `STEPS_PER_EPOCH` steps, down to `SMALLEST`, or to all images if there are
    fewer: on 3,000 pictures of 64×64, batches of 32 instead of 128 gain 1.1 dB in the same time. A size chosen by the user is
    kept; `vaekit.training.checks.check_data` refuses it if it is too large. If ``max_steps`` is set, there are as many epochs as
    it needs, but no more than the user chose. Losses pin the digests; see `vaekit.Loss.pinned`.

    Args:
        spec: A complete spec.
        splits: The data.
        num_processes: The number of processes that share a batch.

    Raises:
        DataError: A file that a loss needs does not exist.
    """
    spec = _with_pinned_options(spec)
    train = spec.train
    train = train.model_copy(update={"batch_size": _batch_size(train, len(splits.train), num_processes)})
    if train.max_steps is not None:
        needed = math.ceil(train.max_steps / max(1, full_batches(len(splits.train), train.batch_size)))
        train = train.model_copy(update={"epochs": min(train.epochs, needed) if "epochs" in train.model_fields_set else needed})
    return spec.model_copy(update={"train": train})


def fit_to_model(spec: RunSpec, objective: Objective) -> RunSpec:
    """Return the spec with precision and compilation resolved for an objective, which is on the CPU.

    Raises:
        UsageError: The requested compilation is not available.
    """
    return choose_compilation(choose_precision(spec, objective), objective)


def _batch_size(train: TrainSpec, num: int, num_processes: int) -> int:
    """Return the batch size as given, or one that fits the number of training images."""
    default, together = train.batch_size, num_processes * train.accumulate
    whole = num - num % together
    if "batch_size" in train.model_fields_set or whole == 0:
        return default
    fitting: int = 2 ** math.floor(math.log2(max(1, num // STEPS_PER_EPOCH)))
    size = min(default, max(SMALLEST, fitting), whole)
    return max(size - size % together, together)


def _with_pinned_options(spec: RunSpec) -> RunSpec:
    """Return the spec with the options that its losses pin."""
    losses = []
    for loss in spec.model.loss:
        options = {name: value for name, value in loss if name != "kind"}
        losses.append(loss.model_copy(update=dict(roles.losses.get(loss.kind).pinned(options))))
    return spec.model_copy(update={"model": spec.model.model_copy(update={"loss": tuple(losses)})})


def check_loggers(spec: RunSpec) -> None:
    """Build each logger once to check that its library can be imported.

    Raises:
        UsageError: A library is not installed.
    """
    for logger in spec.train.logger:
        roles.loggers.build(logger)
