"""Schedules of loss weights, as functions of the number of epochs passed."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Schedule = Literal["linear", "cosine", "cyclical"]


def ramp(epoch: Tensor | None, num_epochs: float, schedule: Schedule = "linear") -> Tensor | float:
    """Return a factor in [0, 1] that rises from 0 to 1 over ``num_epochs`` epochs.

    ``cyclical`` repeats with a period of ``num_epochs``: it rises linearly over the first half of each period and stays at 1 over
    the second (R = 0.5 in the paper). Every schedule has reached its final value, 1, at an infinite epoch and where ``epoch`` is
    None.

    Example:
        >>> ramp(torch.tensor(5.0), num_epochs=20)
        tensor(0.2500)

    References:
        Fu et al. (2019), "Cyclical Annealing Schedule: A Simple Approach to Mitigating KL Vanishing", NAACL, arXiv:1903.10145.
    """
    if num_epochs == 0 or epoch is None:
        return 1.0
    progress = epoch / num_epochs
    if schedule == "cyclical":
        return torch.where(torch.isfinite(progress), (2.0 * torch.frac(progress)).clamp(max=1.0), torch.ones_like(progress))
    progress = progress.clamp(max=1.0)
    return progress if schedule == "linear" else 0.5 - 0.5 * torch.cos(math.pi * progress)
