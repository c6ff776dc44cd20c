"""A KL target that grows during training."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from vaekit.interfaces import Capability, Loss, Slot
from vaekit.nn.schedules import LinearSchedule, NonNegativeScheduled, scheduled
from vaekit.roles import losses
from vaekit.trace import Trace

GROWING = LinearSchedule(start=0, end=25, epochs=20)


@losses("capacity")
class CapacityLoss(Loss):
    """``γ |KL - C|`` with a capacity C that grows during training, so that factors of variation are encoded one by one.

    The absolute value is taken of the batch mean, so the loss is a batch statistic.

    Args:
        gamma: Weight γ.
        capacity: Capacity C, in nats.

    References:
        Burgess et al. (2018), "Understanding disentangling in β-VAE", arXiv:1804.03599, equation 8.
    """

    covers: ClassVar[frozenset[Slot]] = frozenset({"divergence"})
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB_OF_DRAWS})
    samples = None
    batch_statistic = True

    def __init__(self, *, gamma: NonNegativeScheduled = 1000.0, capacity: NonNegativeScheduled = GROWING) -> None:
        super().__init__()
        self.gamma, self.capacity = scheduled(gamma), scheduled(capacity)

    def forward(self, trace: Trace) -> Tensor:
        kl = trace.kl
        assert kl is not None  # guaranteed by `requires`, which assembly checks
        return self.gamma(trace.epoch) * (kl.mean() - self.capacity(trace.epoch)).abs()
