"""GECO: the smallest KL at a tolerated reconstruction error."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from vaekit.components.losses._controllers import ControlledKL
from vaekit.interfaces import Shape
from vaekit.nn.schedules import Scheduled, scheduled
from vaekit.roles import losses
from vaekit.trace import Trace, mean_over_samples

LARGEST = 1e4
"""The maximum of β and of λ."""
FASTEST = 0.02
"""The maximum change of log λ per step; otherwise λ would grow by orders of magnitude before the model learns to reconstruct."""


@losses("geco")
class GECO(ControlledKL):
    """``β KL``, where β is adjusted to reach the smallest KL at which the reconstruction error meets a tolerance.

    The error is the mean of -log p(x|z) per data value: the mean squared error for `mse`, the cross-entropy per pixel in nats
    for `bce`; for densities, it may be negative. It equals the logged `reconstruction` divided by the number of values per
    image. After each step, the Lagrange multiplier λ of the constraint is multiplied by ``exp(rate (error - tolerance))``,
    where the error is a moving average and the change is at most 2%. The objective is the paper's, ``KL + λ (error -
    tolerance)``, divided by λ, so ``β = 1 / λ``: the minimiser is the same, and the scale does not change with λ. If the
    tolerance cannot be met, β falls to nearly 0. β is logged; validation uses the latest value.

    Args:
        data_shape: The shape of an example.
        tolerance: Tolerated error κ, in nats per data value.
        rate: Step size of log λ.
        decay: Decay of the moving average.

    References:
        Rezende and Viola (2018), "Taming VAEs", arXiv:1810.00597, algorithm 1.
    """

    learned = ("beta", "error")
    error: Tensor

    def __init__(
        self,
        data_shape: Shape,
        *,
        tolerance: Scheduled = 0.1,
        rate: PositiveFloat = 1.0,
        decay: Annotated[float, Field(ge=0, lt=1)] = 0.99,
    ) -> None:
        super().__init__()
        self.numbers = math.prod(data_shape)
        self.tolerance, self.rate, self.decay = scheduled(tolerance), scheduled(rate), scheduled(decay)
        self.register_buffer("beta", torch.ones(()))
        self.register_buffer("error", torch.zeros(()))

    def next_state(self, trace: Trace) -> dict[str, Tensor]:
        decay, rate = self.decay(trace.epoch), self.rate(trace.epoch)
        error = decay * self.error + (1 - decay) * self.error_of(trace)
        growth = (rate * (error - self.tolerance(trace.epoch))).clamp(-FASTEST, FASTEST)  # of log λ
        return {"beta": (self.beta * torch.exp(-growth)).clamp(1 / LARGEST, LARGEST), "error": error}

    def initial_state(self, trace: Trace) -> dict[str, Tensor]:
        return {"error": self.error_of(trace)}

    def error_of(self, trace: Trace) -> Tensor:
        """Return the mean of -log p(x|z) over a batch, per data value, 0-d."""
        return -mean_over_samples(trace.log_likelihood).mean() / self.numbers
