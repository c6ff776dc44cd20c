"""An optimiser that does not load torch's compiler and launches its kernel directly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor


class AdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` with unwrapped methods and short steps.

    torch wraps optimiser methods for `torch.compile`, and the first call of a wrapper loads the compiler, which takes a second
    and 150 MB with torch 2.14. Optimisers are not compiled here.

    Once every parameter has its moments, a fused step calls torch's kernel itself, without the hooks and checks around it: for an
    MLP of 8 tensors on a CPU, these take 0.08 ms of each step, a fiftieth of it.
    """

    add_param_group = unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = unwrap(torch.optim.Optimizer.load_state_dict)
    _step = unwrap(torch.optim.AdamW.step)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step."""
        tensors = [self._tensors(group) for group in self.param_groups]
        if closure is not None or None in tensors:
            return self._step(closure)
        for group, lists in zip(self.param_groups, tensors, strict=True):
            if lists is not None and lists[0]:
                parameters, gradients, averages, squares, steps = lists
                beta1, beta2 = group["betas"]
                torch._foreach_add_(steps, 1)
                torch._fused_adamw_(
                    parameters,
                    gradients,
                    averages,
                    squares,
                    [],
                    steps,
                    lr=group["lr"],
                    beta1=beta1,
                    beta2=beta2,
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                    amsgrad=False,
                    maximize=False,
                )
        return None

    def _tensors(self, group: Mapping[str, Any]) -> tuple[list[Tensor], ...] | None:
        """Return the parameters with a gradient, their gradients, both moments and steps; None if one kernel cannot take them."""
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        states = [self.state[parameter] for parameter in parameters if parameter in self.state]
        alike = len({parameter.dtype for parameter in parameters}) <= 1
        if not (alike and group["fused"] and len(states) == len(parameters)):
            return None
        moments = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
        return parameters, [parameter.grad for parameter in parameters], *moments
