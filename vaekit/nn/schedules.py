"""Schedules of loss weights, as functions of the epochs passed."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Shape = Literal["linear", "cosine", "cyclical"]


def ramp(epoch: Tensor | None, over: float, shape: Shape = "linear") -> Tensor | float:
    """Return a factor in [0, 1] that has grown from 0 to 1 after ``over`` epochs.

    ``cyclical`` grows linearly over the first half of each period of ``over`` epochs, holds 1 over the second, and starts
    again (Fu et al. 2019, with R = 0.5). At an infinite epoch, and where there is none, every schedule is at its final value, 1.
    """
    if over == 0 or epoch is None:
        return 1.0
    progress = epoch / over
    if shape == "cyclical":
        return torch.where(torch.isfinite(progress), (2.0 * torch.frac(progress)).clamp(max=1.0), torch.ones_like(progress))
    progress = progress.clamp(max=1.0)
    return progress if shape == "linear" else 0.5 - 0.5 * torch.cos(math.pi * progress)
