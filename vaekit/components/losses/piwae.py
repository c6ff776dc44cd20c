"""Different importance-weighted bounds for the decoder and the encoder."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from vaekit.components.losses._bounds import negative_bound
from vaekit.interfaces import GENERATION, INFERENCE, Aim, Capability, Loss, Slot
from vaekit.roles import losses
from vaekit.schema import Count
from vaekit.trace import Trace


@losses("piwae")
class PIWAE(Loss):
    """The decoder maximises the bound from all M K samples, the tightest, and the encoder the mean of M bounds from K samples.

    Each uses the bound with the better gradient for it. The reported value is the decoder's. Training takes about 2 M K times
    as long as that of a VAE.

    Args:
        num_samples: Number of importance samples K of each bound of the encoder.
        num_bounds: Number of bounds M of the encoder.

    References:
        Rainforth et al. (2018), "Tighter Variational Bounds are Not Necessarily Better", ICML, arXiv:1802.04537, section 5.
    """

    covers: ClassVar[frozenset[Slot]] = frozenset({"reconstruction", "divergence"})
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})

    def __init__(self, *, num_samples: Count = 8, num_bounds: Count = 8) -> None:
        super().__init__()
        self.samples = (num_bounds, num_samples)

    def aims(self) -> dict[str, Aim]:
        return {"piwae": Aim(moves=GENERATION), "miwae": Aim("average", moves=INFERENCE, judged=False)}

    def forward(self, trace: Trace) -> Tensor:
        return negative_bound(trace.log_weight.flatten(0, 1))

    def average(self, trace: Trace) -> Tensor:
        """Return the mean of the negative bounds of K samples, ``(B,)``."""
        return negative_bound(trace.log_weight).mean(0)
