"""The KL divergence from the prior."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from vaekit.interfaces import Capability, Loss, Slot
from vaekit.roles import losses
from vaekit.trace import Trace


@losses("kl")
class KL(Loss):
    """``KL(q(z|x) || p(z))``, unweighted: with the reconstruction term, the negative ELBO.

    Added by default unless another loss covers the divergence. If no closed form is known for the pair of densities, it is
    estimated from samples as ``log q(z|x) - log p(z)``.

    References:
        Kingma and Welling (2014), "Auto-Encoding Variational Bayes", ICLR, arXiv:1312.6114, equation 7.
    """

    covers: ClassVar[frozenset[Slot]] = frozenset({"divergence"})
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB_OF_DRAWS})
    samples = None

    def forward(self, trace: Trace) -> Tensor:
        kl = trace.kl
        assert kl is not None  # guaranteed by `requires`, which assembly checks
        return kl
