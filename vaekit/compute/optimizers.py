"""The optimiser, without what torch loads to compile it."""

from __future__ import annotations

from collections.abc import Callable
from inspect import unwrap
from typing import Any

import torch


class AdamW(torch.optim.AdamW):
    """`torch.optim.AdamW`, whose methods call the original ones directly.

    torch wraps them in functions for `torch.compile`, by which no optimiser is compiled here. The first call of one loads the
    compiler: a second and 150 MB with torch 2.14.
    """

    add_param_group = unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = unwrap(torch.optim.Optimizer.load_state_dict)
    _step = unwrap(torch.optim.AdamW.step)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step."""
        return self._step(closure)
