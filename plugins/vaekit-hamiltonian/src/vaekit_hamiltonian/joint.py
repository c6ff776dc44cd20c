"""Shared by both losses: the joint density of a trace's model, and parameters learned within bounds."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

import vaekit
from vaekit.errors import UsageError


def log_joint_of(trace: vaekit.Trace) -> Callable[[Tensor], Tensor]:
    """Return the function that maps latents ``(B, D)`` to ``log p(x|z) + log p(z)``, ``(B,)``."""
    model = trace.model
    c, prior = model.condition_on(trace.y), trace.site.p

    def log_joint(z: Tensor) -> Tensor:
        log_likelihood: Tensor = model.likelihood_of(z, c).log_prob(trace.x)
        return log_likelihood + prior.log_prob(z)

    return log_joint


SPACES = frozenset({"real", "ladder"})
"""The spaces that trajectories cannot leave: every real vector is a code."""


class Bounded(nn.Module):
    """One or several learned numbers between 0 and a bound.

    Args:
        value: The initial value.
        bound: The bound.
        shape: The shape.

    Raises:
        UsageError: The initial value is not below the bound.
    """

    bound: Tensor

    def __init__(self, value: float, bound: float, shape: tuple[int, ...] = ()) -> None:
        super().__init__()
        if value >= bound:
            raise UsageError("an initial value is not below its bound", given=value, expected=f"less than {bound}")
        self.register_buffer("bound", torch.tensor(bound), persistent=False)
        self.logit = nn.Parameter(torch.full(shape, math.log(value / (bound - value))))

    def forward(self) -> Tensor:
        """Return the numbers."""
        value: Tensor = self.bound * torch.sigmoid(self.logit)
        return value
