"""The importance-weighted bound."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from vaekit.interfaces import Capability, Loss, Slot
from vaekit.roles import losses
from vaekit.schema import Count
from vaekit.trace import Trace


@losses("iwae")
class IWAE(Loss):
    """``-log (1/K) sum_k p(x, z_k) / q(z_k|x)``: a bound on log p(x) that K samples make tighter than the ELBO; K = 1 is the VAE.

    Training takes about K times as long, since every sample is decoded. The ELBO that is reported besides remains the ELBO.

    Args:
        num_samples: Number of importance samples K.

    References:
        Burda et al. (2016), "Importance Weighted Autoencoders", ICLR, arXiv:1509.00519, equation 8.
    """

    covers: ClassVar[frozenset[Slot]] = frozenset({"reconstruction", "divergence"})
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})

    def __init__(self, *, num_samples: Count = 5) -> None:
        super().__init__()
        self.samples = (num_samples,)

    def forward(self, trace: Trace) -> Tensor:
        return math.log(trace.z.shape[0]) - torch.logsumexp(trace.log_weight, 0)
