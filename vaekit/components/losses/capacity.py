"""The KL held at a growing capacity."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from vaekit.interfaces import Capability, Loss, Slot
from vaekit.nn.schedules import ramp
from vaekit.roles import losses
from vaekit.trace import Trace


@losses("capacity")
class CapacityLoss(Loss):
    """``γ |KL - C|`` with a capacity C that grows during training: the code picks up one factor of variation after another.

    The KL is averaged over the batch before the absolute value is taken, so the loss is a statistic of the batch.

    Args:
        gamma: Weight γ.
        capacity: Final capacity C, in nats.
        warmup: Epochs over which C grows from 0; 0 for a constant C.

    References:
        Burgess et al. (2018), "Understanding disentangling in β-VAE", arXiv:1804.03599, equation 8.
    """

    covers: ClassVar[frozenset[Slot]] = frozenset({"divergence"})
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})
    samples = None
    batch_statistic = True
    gamma: Tensor
    capacity: Tensor

    def __init__(
        self, *, gamma: PositiveFloat = 1000.0, capacity: NonNegativeFloat = 25.0, warmup: NonNegativeFloat = 20.0
    ) -> None:
        super().__init__()
        self.register_buffer("gamma", torch.tensor(gamma), persistent=False)
        self.register_buffer("capacity", torch.tensor(capacity), persistent=False)
        self.warmup = warmup

    def forward(self, trace: Trace) -> Tensor:
        kl = trace.kl
        assert kl is not None  # guaranteed by `requires`, which assembly checks
        return self.gamma * (kl.mean() - self.capacity * ramp(trace.epoch, self.warmup)).abs()
