"""Base class of the losses that adjust β during training."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from vaekit.interfaces import Capability, Loss, Slot
from vaekit.trace import Trace


class ControlledKL(Loss):
    """``β KL``, where β is a buffer; subclasses register it and compute its next value."""

    covers: ClassVar[frozenset[Slot]] = frozenset({"divergence"})
    requires: ClassVar[frozenset[str]] = frozenset({Capability.LOG_PROB_OF_DRAWS})
    samples = None
    beta: Tensor

    def forward(self, trace: Trace) -> Tensor:
        kl = trace.kl
        assert kl is not None  # guaranteed by `requires`, which assembly checks
        trace.metrics["beta"] = self.beta
        return self.beta * kl
