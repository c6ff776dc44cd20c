"""AdamW over the stacked parameters of many models, each with its own learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vaekit.compute import process


class StackedAdamW:
    """The step of `torch.optim.AdamW` for one player's parameters in S models at once.

    The state of each model's optimiser becomes a view of the stacked state, so that checkpoints are written as usual. As in
    PyTorch, ε is added after the bias correction.

    Args:
        parameters: The stacked parameters by name, each ``(S, *shape)``.
        optimizers: The player's optimiser in each model, with its settings and state, if any; all at the same step count.
        grad_clip: The maximum gradient norm of each model, or None.
        compiled: Whether to compile the update.

    References:
        Loshchilov and Hutter (2019), "Decoupled Weight Decay Regularization", ICLR, arXiv:1711.05101, algorithm 2.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        optimizers: Sequence[torch.optim.AdamW],
        grad_clip: Sequence[float | None],
        *,
        compiled: bool = False,
    ) -> None:
        self.parameters = {name: tensor.detach() for name, tensor in parameters.items()}
        self.settings = [optimizer.param_groups[0] for optimizer in optimizers]
        own = [dict(zip(parameters, settings["params"], strict=True)) for settings in self.settings]
        self.moments: dict[str, list[Tensor]] = {}
        self.steps: dict[str, Tensor] = {}
        for name, tensor in self.parameters.items():
            states = [optimizer.state[each[name]] for optimizer, each in zip(optimizers, own, strict=True)]
            zero = torch.zeros_like(tensor[0])
            self.moments[name] = [torch.stack([s.get(key, zero) for s in states]) for key in ("exp_avg", "exp_avg_sq")]
            count = torch.zeros((), device=tensor.device, dtype=torch.float32)  # as in the fused optimiser
            self.steps[name] = torch.stack([s.get("step", count) for s in states])
            for number, state in enumerate(states):
                state["step"] = self.steps[name][number]
                state["exp_avg"], state["exp_avg_sq"] = (moment[number] for moment in self.moments[name])
        self.count = max((int(steps.max()) for steps in self.steps.values()), default=0)
        some = next(iter(self.parameters.values()))
        self.like = some.flatten()[:1]
        clipped = any(limit is not None for limit in grad_clip)
        limits = [math.inf if limit is None else limit for limit in grad_clip]
        self.limits = some.new_tensor(limits) if clipped else None
        self.update = process.compiled(update) if compiled else update

    def numbers(self, factors: Sequence[float]) -> Tensor:
        """Advance the step count; return the numbers required by `step`, ``(3, S)``; see `update`.

        Args:
            factors: The learning rate of each model as a fraction of its peak.
        """
        self.count += 1
        beta1, beta2 = self.settings[0]["betas"]
        for settings, factor in zip(self.settings, factors, strict=True):
            settings["lr"] = settings["peak_lr"] * factor
        rate = [settings["lr"] / (1 - beta1**self.count) for settings in self.settings]
        keep = [1 - settings["lr"] * settings["decay"] for settings in self.settings]
        numbers = torch.tensor([rate, keep, [math.sqrt(1 - beta2**self.count)] * len(rate)], dtype=self.like.dtype)
        return numbers.to(self.like.device, non_blocking=True)

    def step(self, gradients: Mapping[str, Tensor | None], numbers: Tensor) -> None:
        """Take a step; parameters without a gradient remain unchanged.

        Args:
            gradients: The gradients by name, stacked like the parameters.
            numbers: The result of `numbers` for this step.
        """
        given = {name: gradient for name, gradient in gradients.items() if gradient is not None and name in self.parameters}
        for name in given:
            self.steps[name] += 1
        with torch.no_grad():
            self.update(
                [self.parameters[name] for name in given],
                list(given.values()) if self.limits is None else clip(list(given.values()), self.limits),
                [self.moments[name] for name in given],
                numbers=numbers,
                constants=(*self.settings[0]["betas"], self.settings[0]["eps"]),
            )


def clip(gradients: Sequence[Tensor], limits: Tensor) -> list[Tensor]:
    """Clip the gradient norm of each model to its limit, ``(S,)``, as `torch.nn.utils.clip_grad_norm_` does for one model.

    It is not compiled together with the update because inductor 2.15 fails on the combination.
    """
    norm = torch.stack([gradient.square().reshape(len(gradient), -1).sum(1) for gradient in gradients]).sum(0).sqrt()
    scale = (limits / (norm + 1e-6)).clamp(max=1.0)
    return [gradient * _along(scale, gradient) for gradient in gradients]


def update(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    moments: Sequence[Sequence[Tensor]],
    *,
    numbers: Tensor,
    constants: tuple[float, float, float],
) -> None:
    """Update parameters ``(S, *shape)`` and their two moments in place.

    Args:
        parameters: The stacked parameters.
        gradients: Their gradients.
        moments: The first and second moment of each.
        numbers: ``(3, S)``: the learning rate divided by the bias correction ``1 - β1^t`` of the first moment, the factor
            ``1 - lr·λ`` of weight decay λ, and the square root of the bias correction ``1 - β2^t`` of the second moment.
        constants: β1, β2 and ε.
    """
    beta1, beta2, eps = constants
    for parameter, gradient, (first, second) in zip(parameters, gradients, moments, strict=True):
        rate, keep, root = (_along(values, parameter) for values in numbers)
        if parameter.ndim > 2:  # at least a matrix per model; see `vaekit.training.step.decay`
            parameter.mul_(keep)
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        parameter.addcdiv_(first * rate, second.sqrt().div_(root).add_(eps), value=-1.0)


def _along(values: Tensor, like: Tensor) -> Tensor:
    """Reshape ``(S,)`` to broadcast against ``(S, *shape)``."""
    return values.view(-1, *[1] * (like.ndim - 1))
