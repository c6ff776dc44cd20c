"""Checks of a run: of its spec against its data before training, and of its losses and weights during training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from vaekit.compute.sharding import own
from vaekit.data import ImageSource, Splits
from vaekit.data.batches import full_batches
from vaekit.errors import DataError, DivergenceError, UsageError
from vaekit.evaluation.evaluator import check_criterion
from vaekit.evaluation.metrics import Criterion
from vaekit.interfaces import Likelihood, Loss
from vaekit.model.objective import Objective
from vaekit.specs.models import RunSpec

CHUNK = 1024
"""The number of examples that are checked at once."""


def check_data(spec: RunSpec, likelihood: Likelihood, splits: Splits) -> None:
    """Check that the data fit the likelihood, the batch size and the schedule of the learning rate.

    Raises:
        UsageError: The batch size exceeds the size of the training set, or the warm-up lasts for the whole run.
        DataError: Pixel values lie outside the support of the likelihood, or are not the grey levels or counts that it scores.
    """
    if spec.train.batch_size > len(splits.train):
        raise UsageError(
            "the batch size exceeds the size of the training set",
            given=f"batch size {spec.train.batch_size}, {len(splits.train)} images",
            remedy=f"use --batch-size {len(splits.train)} or less",
        )
    num_steps = spec.train.num_steps(full_batches(len(splits.train), spec.train.batch_size))
    if spec.train.warmup_steps >= num_steps:
        raise UsageError(
            "the learning rate would never reach its peak",
            given=f"--warmup-steps {spec.train.warmup_steps}",
            expected=f"fewer steps than the {num_steps} of the run",
            remedy="use a shorter warm-up, or more --epochs",
        )
    check_examples(likelihood, {f"the {name} split": part for name, part in splits.parts.items()})


def check_examples(likelihood: Likelihood, parts: Mapping[str, ImageSource]) -> None:
    """Check that a likelihood can score examples, given by the names that errors use.

    Raises:
        DataError: Pixel values lie outside the support of the likelihood, or are not the grey levels or counts that it scores.
    """
    if likelihood.scores == "levels" and not all(part.integer for part in parts.values()):
        raise DataError(
            f"the likelihood {likelihood.kind!r} scores 8-bit grey levels",
            given="pixels that are floats",
            expected="bytes from 0 to 255, or other integers with their range: --dataset.range LOW,HIGH",
            remedy="store the images as integers, or use a likelihood of real-valued pixels: --loss gaussian",
        )
    if likelihood.scores == "counts":
        _check_counts(likelihood, parts)
    for name, part in parts.items() if likelihood.support == "unit" else ():
        low, high = part.value_range()
        if low < 0 or high > 1:
            real = "a likelihood on all reals: --loss gaussian --likelihood.link identity"
            pixels = f"state which values stand for black and white, for example --dataset.range -1,1, or use {real}"
            raise DataError(
                f"the likelihood {likelihood.kind!r} scores only pixels in [0, 1]",
                given=f"pixels from {low:.4g} to {high:.4g} in {name}",
                remedy=pixels if len(part.shape) > 2 else f"use {real}",
            )


def check_accumulation(spec: RunSpec, objective: Objective, num_processes: int = 1) -> None:
    """Check that a step on a batch in parts (``accumulate``) equals that on the whole batch.

    Args:
        spec: A complete spec.
        objective: Its objective.
        num_processes: The number of processes that share a batch.

    Raises:
        UsageError: The batch cannot be split equally, or a part of the objective depends on the whole batch.
    """
    num, size = spec.train.accumulate, spec.train.batch_size
    if num == 1:
        return
    if size % (num * num_processes):
        shared = f" in each of {num_processes} processes" if num_processes > 1 else ""
        raise UsageError(
            "the batch cannot be split into equal parts",
            given=f"batch size {size}, --accumulate {num}{shared}",
            expected=f"a multiple of {num * num_processes}",
            remedy="change --batch-size or --accumulate",
        )
    mixing = [f"the loss {kind!r}" for kind, loss in objective.losses.items() if _mixes_examples(loss)]
    if _mixes_examples(objective.vae):
        mixing.append("batch normalisation in the model")
    if mixing:
        raise UsageError(
            "gradients cannot be accumulated over parts of a batch if a term is a statistic of the whole batch",
            given=f"--accumulate {num}; {', '.join(mixing)}",
            expected="losses that are means over examples",
            remedy="pass --accumulate 1, with a smaller --batch-size if memory is short, or leave that loss out (of beta: its "
            "free bits)",
        )


def _mixes_examples(module: nn.Module) -> bool:
    """Whether a module's output for an example depends on the rest of its batch."""
    statistics = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm
    return any(part.batch_statistic if isinstance(part, Loss) else isinstance(part, statistics) for part in module.modules())


def _check_counts(likelihood: Likelihood, parts: Mapping[str, ImageSource]) -> None:
    """Check that all values that are not missing are counts.

    Raises:
        DataError: They are not.
    """
    for name, part in parts.items():
        given = "bytes, which are pixels between 0 and 1" if part.integer else None
        for index in torch.arange(0 if part.integer else len(part), device=part.device).split(CHUNK):
            x = part.gather(index)
            others = x[((x < 0) | (x != x.round())) & ~x.isnan()]
            if len(others):
                given = f"{others[0].item():.6g}"
                break
        if given is not None:
            raise DataError(
                f"the likelihood {likelihood.kind!r} scores counts only",
                given=f"{given}, in {name}",
                expected="integers from 0, for example in a table: an array of shape (N, F)",
                remedy="store counts as they are, or use a likelihood on all reals: --loss gaussian --likelihood.link identity",
            )


def best_criterion(spec: RunSpec, objective: Objective) -> Criterion | None:
    """Return the metric that chooses the best epoch; None if it is the last.

    Raises:
        UsageError: The direction of the metric is neither ``min`` nor ``max``.
    """
    best = spec.train.best
    if best == "auto":
        best = "last" if objective.has_critic or objective.has_controller else "loss"
    return None if best == "last" else Criterion.read(best)


def check_best(spec: RunSpec, objective: Objective, splits: Splits) -> None:
    """Check that the model has the metric that chooses the best epoch, and that early stopping has such a metric.

    Raises:
        UsageError: It does not have it; the message lists those it has. Or early stopping has no metric.
    """
    criterion = best_criterion(spec, objective)
    if criterion is None and spec.train.patience is not None:
        why = "--best last" if spec.train.best == "last" else "--best auto, which is last with a critic or a controller"
        raise UsageError(
            "early stopping needs a validation metric that chooses the best epoch",
            given=f"--patience {spec.train.patience}, {why}",
            remedy="choose a metric, for example --best loss or --best reconstruction",
        )
    if criterion is not None and criterion.name != "loss":
        check_criterion(criterion, "--best last,", spec, objective, splits)


def check_weights(objective: nn.Module) -> None:
    """Check that no parameter has several names, since a checkpoint stores each parameter once.

    Raises:
        UsageError: A parameter has several names; the message lists them.
    """
    names: dict[int, str] = {}
    for name, parameter in objective.named_parameters(remove_duplicate=False):
        other = names.setdefault(id(parameter), name)
        if other != name:
            raise UsageError(
                "a parameter shared by two parts cannot be saved",
                given=f"{other} and {name}",
                expected="separate parameters for each part",
                remedy="register the parameter in one part only, and let the other use it without registering it",
            )


def divergence(values: Mapping[str, float], when: str, objective: nn.Module, last: Path) -> DivergenceError:
    """Return the error for non-finite numbers.

    Args:
        values: Numbers by name, some of them NaN or infinite.
        when: When they were computed, such as ``at epoch 2, step 7``.
        objective: The objective that produced them; the error names its first non-finite parameter.
        last: The path of the latest checkpoint, which may not exist.
    """
    blamed = [name for name, value in values.items() if not math.isfinite(value)]
    tensors = [name for name, parameter in objective.named_parameters() if not own(parameter).isfinite().all()]
    return DivergenceError(
        f"the loss is not finite: {', '.join(blamed)} {when}",
        given=f"non-finite weights first in {tensors[0]}" if tensors else "all weights are finite",
        expected="finite losses",
        remedy=f"lower --lr, or set --grad-clip; latest good checkpoint: {last if last.exists() else 'none saved yet'}",
    )
