"""The commitment loss of vector quantisation."""

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
    """``KL + β |outputs - entries|²``: keeps the encoder's outputs close to the codebook entries, which receive no gradient.

    The KL is constant under the uniform prior and trains any other prior. The squared ``distance`` and the ``perplexity``, the
    effective number of entries in use, are logged; with several codebooks, their means.

    Args:
        commitment: Weight β, in nats per unit of squared distance.

    References:
        van den Oord et al. (2017), "Neural Discrete Representation Learning", NeurIPS, arXiv:1711.00937, equation 3.
    """

    covers: ClassVar[frozenset[Slot]] = frozenset({"divergence"})
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.CODES, Capability.LOG_PROB})
    requires_of_prior: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})

    def __init__(self, *, commitment: NonNegativeScheduled = 0.25) -> None:
        super().__init__()
        self.commitment = scheduled(commitment)

    def forward(self, trace: Trace) -> Tensor:
        q = cast("Quantised", trace.site.q)
        distance, kl = q.distance, trace.kl
        assert kl is not None  # guaranteed by `requires`, which assembly checks
        assert q.usage is not None  # guaranteed by CODES
        trace.metrics.update(distance=distance, perplexity=torch.exp(torch.special.entr(q.usage).sum(-1)).mean())
        return kl + self.commitment(trace.epoch) * distance
