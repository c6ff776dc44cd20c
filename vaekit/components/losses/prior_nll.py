"""The negative log-likelihood of codes under the prior: density estimation."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from vaekit.interfaces import Aim, Capability, Loss, Slot
from vaekit.roles import losses
from vaekit.trace import Trace, mean_over_samples


@losses("prior_nll")
class PriorNLL(Loss):
    """``-log p(z)`` of the codes: ex-post density estimation, which fits the prior and trains nothing else.

    It gives a model without a KL a prior to sample from, either in a second stage (``vaekit fit-prior RUN --prior
    full_mixture``) or alongside the autoencoder from the start. If the posterior has a density, the prior is fitted to the
    mixture of all posteriors, as by the KL; other losses train the encoder.

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
