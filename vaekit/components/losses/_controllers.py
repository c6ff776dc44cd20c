"""What losses with a β that training finds share."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from vaekit.interfaces import Capability, Loss, Slot
from vaekit.trace import Trace


class ControlledKL(Loss):
    """``β KL``, with a β that is state without gradients; subclasses register it and compute the next one."""

    covers: ClassVar[frozenset[Slot]] = frozenset({"divergence"})
    requires: ClassVar[frozenset[str]] = frozenset({Capability.LOG_PROB_OF_DRAWS})
    samples = None
    beta: Tensor

    def forward(self, trace: Trace) -> Tensor:
        kl = trace.kl
        assert kl is not None  # guaranteed by `requires`, which assembly checks
        trace.metrics["beta"] = self.beta
        return self.beta * kl
