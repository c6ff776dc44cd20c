"""A moving average (EMA) of the weights, kept alongside the weights being trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from vaekit.compute.sharding import own


class MovingAverage:
    """An exponential moving average ``a`` of parameters ``θ``: ``a <- d a + (1 - d) θ`` after step t, initialised to ``θ``.

    The decay increases with the steps, ``d = min(decay, (1 + t) / (10 + t))`` for t = 0, 1, …, so that an average over few steps
    does not retain the initial weights. This increase is that of TensorFlow's ``ExponentialMovingAverage``.

    Args:
        parameters: Tensors to average, by name: trainable parameters, which may be sharded over processes, and learned buffers.
        decay: The largest d.

    References:
        Polyak and Juditsky (1992), "Acceleration of Stochastic Approximation by Averaging", SIAM Journal on Control and
            Optimization 30(4).
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self.parameters, self.decay = dict(parameters), decay
        self.start()
        some = next(iter(self.parameters.values()))
        self.weight = torch.zeros((), dtype=some.dtype, device=some.device)  # read by the recorded step

    def start(self) -> None:
        """Set the average to the current parameters."""
        self.tensors = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def set_step(self, step: int) -> None:
        """Set the weight in the average of the parameters after a step."""
        self.weight.fill_(1.0 - min(self.decay, _risen(step)))

    def rises(self, step: int) -> bool:
        """Whether the decay is still below its largest value at a step."""
        return _risen(step) < self.decay

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the current parameters, after a step."""
        averages, parameters = self._own()
        torch._foreach_lerp_(averages, parameters, [self.weight] * len(averages))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Swap the parameters and their average for the duration of a context."""
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
        """Return this process's shards of the average and of the parameters."""
        averages = [own(self.tensors[name]) for name in self.parameters]
        return averages, [own(parameter) for parameter in self.parameters.values()]


def _risen(step: int) -> float:
    return (1 + step) / (10 + step)
