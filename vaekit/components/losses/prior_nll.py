"""The negative log-likelihood of codes under the prior: density estimation."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from vaekit.interfaces import Aim, Capability, Loss, Slot
from vaekit.roles import losses
from vaekit.trace import Trace, mean_over_samples


@losses("prior_nll")
class PriorNLL(Loss):
    """``-log p(z)`` of the codes, which fits the prior to them and trains nothing else: ex-post density estimation.

    It gives a model without a KL a prior to sample from, in a second stage (``vaekit fit-prior RUN --prior full_mixture``) or
    alongside the autoencoder from the start. For a posterior with
    a density, the prior is fitted to the mixture of all posteriors, as the KL would fit it; the encoder is left to other losses.

    References:
        Ghosh et al. (2020), "From Variational to Deterministic Autoencoders", ICLR, arXiv:1903.12436, section 4.
    """

    covers: ClassVar[frozenset[Slot]] = frozenset({"divergence"})
    requires_of_prior: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})
    samples = None

    def aims(self) -> dict[str, Aim]:
        return {"prior_nll": Aim(moves=("prior",))}

    def forward(self, trace: Trace) -> Tensor:
        return -mean_over_samples(trace.site.log_p)
