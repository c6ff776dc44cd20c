"""Checks of a run: against its data before any work is done, and of its numbers while it works."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from vaekit.compute.sharding import own
from vaekit.data import Splits
from vaekit.errors import DataError, DivergenceError, UsageError
from vaekit.interfaces import Likelihood
from vaekit.specs.models import RunSpec


def check_data(spec: RunSpec, likelihood: Likelihood, splits: Splits) -> None:
    """Refuse data that the likelihood or the batch size does not fit.

    Raises:
        UsageError: The batch is larger than the training set.
        DataError: Pixels lie outside what the likelihood can score.
    """
    if spec.train.batch_size > len(splits.train):
        raise UsageError(
            "the batch is larger than the training set",
            given=f"batch size {spec.train.batch_size}, {len(splits.train)} images",
            remedy=f"use --batch-size {len(splits.train)} or less",
        )
    low, high = splits.train.value_range()
    if likelihood.support == "unit" and (low < 0 or high > 1):
        raise DataError(
            f"the likelihood {likelihood.kind!r} scores pixels in [0, 1] only",
            given=f"pixels from {low:.4g} to {high:.4g}",
            remedy="scale the data to [0, 1], or use a likelihood on all reals: --loss gaussian --likelihood.link identity",
        )


def check_weights(objective: nn.Module) -> None:
    """Refuse weights that go by several names, as a file holds each once.

    Raises:
        UsageError: Some do; the message names them.
    """
    names: dict[int, str] = {}
    for name, parameter in objective.named_parameters(remove_duplicate=False):
        other = names.setdefault(id(parameter), name)
        if other != name:
            raise UsageError(
                "weights that two parts share cannot be saved",
                given=f"{other} and {name}",
                expected="a parameter for each part",
                remedy="keep the parameter in one part, and let the other compute with it without registering it",
            )


def divergence(values: Mapping[str, float], when: str, objective: nn.Module, last: Path) -> DivergenceError:
    """Return the error for numbers that are not finite.

    Args:
        values: Numbers by name, some of them NaN or infinite.
        when: When they were computed, as ``at epoch 2, step 7``.
        objective: What they are of; its first tensor that is not finite is named.
        last: Where a checkpoint would be.
    """
    blamed = [name for name, value in values.items() if not math.isfinite(value)]
    tensors = [name for name, parameter in objective.named_parameters() if not own(parameter).isfinite().all()]
    return DivergenceError(
        f"the loss is not finite: {', '.join(blamed)} {when}",
        given=f"non-finite weights first in {tensors[0]}" if tensors else "all weights are finite",
        expected="finite losses",
        remedy=f"lower --lr, or set --grad-clip; last good checkpoint: {last if last.exists() else 'none was saved yet'}",
    )
