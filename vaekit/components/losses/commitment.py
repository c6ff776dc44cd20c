"""The commitment of an encoder to a codebook."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor

from vaekit.distributions import Quantised
from vaekit.interfaces import Capability, Loss, Slot
from vaekit.nn.schedules import NonNegativeScheduled, scheduled
from vaekit.roles import losses
from vaekit.trace import Trace


@losses("commitment")
class Commitment(Loss):
    """``β |outputs - entries|²``: keeps the encoder's outputs near the entries of the codebook, which are constants here.

    It replaces the KL, which is constant under a uniform prior. The logged ``perplexity`` is the effective number of entries in
    use.

    Args:
        commitment: Weight β, in nats per unit of squared distance.

    References:
        van den Oord et al. (2017), "Neural Discrete Representation Learning", NeurIPS, arXiv:1711.00937, equation 3.
    """

    covers: ClassVar[frozenset[Slot]] = frozenset({"divergence"})
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.CODES})
    requires_of_prior: ClassVar[frozenset[Capability]] = frozenset()

    def __init__(self, *, commitment: NonNegativeScheduled = 0.25) -> None:
        super().__init__()
        self.commitment = scheduled(commitment)

    def forward(self, trace: Trace) -> Tensor:
        q = cast("Quantised", trace.site.q)
        trace.metrics["perplexity"] = torch.exp(torch.special.entr(q.usage).sum())
        return self.commitment(trace.epoch) * (q.outputs - q.entries.detach()).square().sum(-1)
