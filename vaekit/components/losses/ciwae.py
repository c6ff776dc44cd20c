"""The combination of the importance-weighted bound and the ELBO."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from vaekit.components.losses._bounds import negative_bound
from vaekit.interfaces import Capability, Loss, Slot
from vaekit.roles import losses
from vaekit.schema import Count
from vaekit.trace import Trace


@losses("ciwae")
class CIWAE(Loss):
    """``β ELBO + (1 - β) IWAE``, from the same K samples: from `iwae` (β = 0) to the VAE (β = 1).

    A small share of the ELBO preserves the signal in the encoder's gradient as K grows.

    Args:
        num_samples: Number of importance samples K.
        elbo_weight: Weight β of the ELBO.

    References:
        Rainforth et al. (2018), "Tighter Variational Bounds are Not Necessarily Better", ICML, arXiv:1802.04537, section 5.
    """

    covers: ClassVar[frozenset[Slot]] = frozenset({"reconstruction", "divergence"})
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})
    elbo_weight: Tensor

    def __init__(self, *, num_samples: Count = 64, elbo_weight: Annotated[float, Field(ge=0, le=1)] = 0.05) -> None:
        super().__init__()
        self.samples = (num_samples,)
        self.register_buffer("elbo_weight", torch.tensor(elbo_weight), persistent=False)

    def forward(self, trace: Trace) -> Tensor:
        weight = trace.log_weight
        return torch.lerp(negative_bound(weight), -weight.mean(0), self.elbo_weight)
