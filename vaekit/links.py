"""How continuous likelihoods map the decoder's output to a mean, and hold a scale."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from vaekit.distributions import at_least_float32

Link = Literal["sigmoid", "identity"]

MIN_SCALE = 1.0 / 256.0
"""Smallest learned scale: one grey level. Below it a density over 8-bit pixels grows without bound."""


def mean_of(params: Tensor, link: Link) -> Tensor:
    """Map decoder outputs to means: into [0, 1] by a sigmoid, or as they are."""
    params = at_least_float32(params)
    return torch.sigmoid(params) if link == "sigmoid" else params


class LogScale(nn.Module):
    """A log scale shared by all pixels: fixed, or learned and bounded below by one grey level."""

    log_scale: Tensor

    def __init__(self, scale: float, learned: bool) -> None:
        super().__init__()
        value = torch.tensor([math.log(scale)])
        if learned:
            self.log_scale = nn.Parameter(value)
        else:
            self.register_buffer("log_scale", value, persistent=False)
        self.learned = learned

    def forward(self) -> Tensor:
        return self.log_scale.clamp(min=math.log(MIN_SCALE)) if self.learned else self.log_scale
