"""The KL divergence from the prior."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from vaekit.interfaces import Capability, Loss, Slot
from vaekit.roles import losses
from vaekit.trace import Trace


@losses("kl")
class KL(Loss):
    """``KL(q(z|x) || p(z))``, unweighted: with the reconstruction term it makes the negative ELBO. Added unless covered.

    Closed-form where the pair of densities has one, else the sampled ``log q(z|x) - log p(z)``.

    Reference:
        Kingma & Welling, Auto-Encoding Variational Bayes, ICLR 2014, eq. 7.
    """

    covers: ClassVar[frozenset[Slot]] = frozenset({"divergence"})
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})

    def forward(self, trace: Trace) -> Tensor:
        kl = trace.kl
        assert kl is not None  # guaranteed by `requires`, which assembly checks
        return kl
