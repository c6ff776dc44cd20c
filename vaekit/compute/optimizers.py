"""An optimiser that does not load torch's compiler."""

from __future__ import annotations

from collections.abc import Callable
from inspect import unwrap
from typing import Any

import torch


class AdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` with unwrapped methods.

    torch wraps optimiser methods for `torch.compile`, and the first call of a wrapper loads the compiler, which takes a second
    and 150 MB with torch 2.14. Optimisers are not compiled here.
    """

    add_param_group = unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = unwrap(torch.optim.Optimizer.load_state_dict)
    _step = unwrap(torch.optim.AdamW.step)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step."""
        return self._step(closure)
