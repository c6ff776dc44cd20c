"""A moving average of the weights, beside the weights that training moves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vaekit.compute.sharding import own


class MovingAverage:
    """The exponential moving average ``a`` of parameters ``θ``: after step t it becomes ``d a + (1 - d) θ``, from ``a = θ``.

    d rises with the steps to its highest, ``min(decay, (1 + t) / (10 + t))`` with t from 0, so that an average over few steps
    does not hold on to the weights of the beginning.

    Args:
        module: Whose parameters; those that need no gradient are left out. They may be divided over processes.
        decay: The highest d.

    Reference:
        Polyak & Juditsky, Acceleration of Stochastic Approximation by Averaging, SIAM J. Control Optim. 30(4), 1992. The rising d
        is that of TensorFlow's ``ExponentialMovingAverage``.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.parameters = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        self.decay = decay
        self.tensors = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        some = next(iter(self.parameters.values()))
        self.weight = torch.zeros((), dtype=some.dtype, device=some.device)  # where a recorded step reads it

    def set_step(self, step: int) -> None:
        """Set what the parameters after a step weigh in the average."""
        self.weight.fill_(1.0 - min(self.decay, _risen(step)))

    def rises(self, step: int) -> bool:
        """Whether d is below its highest at a step."""
        return _risen(step) < self.decay

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters, as they are after a step, into the average."""
        averages, parameters = self._own()
        torch._foreach_lerp_(averages, parameters, [self.weight] * len(averages))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the parameters hold the average for a while, and the average the parameters."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for average, parameter in zip(*self._own(), strict=True):
            kept = parameter.clone()
            parameter.copy_(average)
            average.copy_(kept)

    def _own(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return what this process holds of the average, and of the parameters."""
        averages = [own(self.tensors[name]) for name in self.parameters]
        return averages, [own(parameter) for parameter in self.parameters.values()]


def _risen(step: int) -> float:
    return (1 + step) / (10 + step)
