"""The weighted KL of β-VAE, with free bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from vaekit.distributions import FactorisedDensity
from vaekit.interfaces import Capability, Declaration, Loss, Slot, required_of_prior
from vaekit.nn.schedules import NonNegativeScheduled, scheduled
from vaekit.roles import losses
from vaekit.trace import Trace


@losses("beta")
class Beta(Loss):
    """``β KL(q(z|x) || p(z))``: β > 1 favours disentanglement over reconstruction; KL warm-up keeps latents in use.

    The KL is summed over latents and the reconstruction over pixels, so β is the paper's unnormalised β: 1 is the VAE for any
    image size. For warm-up, set β to ``linear(0, 1, 10)``; for cyclical annealing, to ``cyclic(0, 1, 10)``. The references
    cover, in order, β, warm-up, cyclical annealing and free bits.

    Args:
        beta: Weight of the KL.
        free_bits: KL in nats, averaged over the batch, that each latent dimension may use without penalty.

    References:
        Higgins et al. (2017), "β-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework", ICLR, equation 4.
        Bowman et al. (2016), "Generating Sentences from a Continuous Space", CoNLL, arXiv:1511.06349, section 3.1.
        Fu et al. (2019), "Cyclical Annealing Schedule: A Simple Approach to Mitigating KL Vanishing", NAACL, arXiv:1903.10145.
        Kingma et al. (2016), "Improved Variational Inference with Inverse Autoregressive Flow", NeurIPS, arXiv:1606.04934,
            equation 15.
    """

    covers: ClassVar[frozenset[Slot]] = frozenset({"divergence"})
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB_OF_DRAWS})
    samples = None

    def __init__(self, *, beta: NonNegativeScheduled = 4.0, free_bits: NonNegativeScheduled = 0.0) -> None:
        super().__init__()
        self.beta, self.free_bits = scheduled(beta), scheduled(free_bits)
        self.batch_statistic = free_bits != 0

    @classmethod
    def declare(cls, options: Mapping[str, Any]) -> Declaration:
        factorised = {Capability.FACTORISED} if options["free_bits"] != 0 else set()
        requires = cls.requires | factorised
        return Declaration(cls.covers, requires, required_of_prior(requires))

    def forward(self, trace: Trace) -> Tensor:
        if self.batch_statistic:
            return self.beta(trace.epoch) * sum_free_bits(trace, self.free_bits(trace.epoch))
        kl = trace.kl
        assert kl is not None  # guaranteed by `requires`, which assembly checks
        return self.beta(trace.epoch) * kl


def sum_free_bits(trace: Trace, free_bits: Tensor) -> Tensor:
    """Return ``sum_d max(KL_d, free_bits)``, 0-d, with the KL of each latent averaged over the batch."""
    kept = []
    for site in trace.sites:
        kl_per_dim = site.kl_per_dim
        if kl_per_dim is None:  # no closed form: one sample per dimension
            q, p = cast("FactorisedDensity", site.q), cast("FactorisedDensity", site.p)
            kl_per_dim = (q.log_prob_per_dim(site.z) - p.log_prob_per_dim(site.z)).flatten(0, -2)
        kept.append(kl_per_dim.mean(0).clamp(min=free_bits).sum())
    return torch.stack(kept).sum()
