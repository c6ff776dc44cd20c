"""The average of several importance-weighted bounds."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from vaekit.components.losses._bounds import negative_bound
from vaekit.interfaces import Capability, Loss, Slot
from vaekit.roles import losses
from vaekit.schema import Count
from vaekit.trace import Trace


@losses("miwae")
class MIWAE(Loss):
    """The mean of M importance-weighted bounds of K samples each: a looser bound than `iwae`, with a less noisy gradient for q.

    With one bound, it is `iwae`; with one sample, the ELBO. Training takes about M K times as long as that of a VAE.

    Args:
        num_samples: Number of importance samples K of each bound.
        num_bounds: Number of bounds M.

    References:
        Rainforth et al. (2018), "Tighter Variational Bounds are Not Necessarily Better", ICML, arXiv:1802.04537, section 5.
    """

    covers: ClassVar[frozenset[Slot]] = frozenset({"reconstruction", "divergence"})
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})

    def __init__(self, *, num_samples: Count = 8, num_bounds: Count = 8) -> None:
        super().__init__()
        self.samples = (num_bounds, num_samples)

    def forward(self, trace: Trace) -> Tensor:
        return negative_bound(trace.log_weight).mean(0)
