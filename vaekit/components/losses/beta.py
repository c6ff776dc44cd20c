"""The weighted KL of the β-VAE, with warm-up and free bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from vaekit.distributions import FactorisedDensity
from vaekit.interfaces import Capability, Declaration, Loss, Slot
from vaekit.nn.schedules import Shape, ramp
from vaekit.roles import losses
from vaekit.trace import Trace


@losses("beta")
class Beta(Loss):
    """``β KL(q(z|x) || p(z))``: β above 1 disentangles at the cost of reconstruction; warm-up keeps latents from dying early.

    Sums over pixels and latents, so β is the paper's unnormalised one: 1 is the VAE whatever the size of the image.

    Args:
        beta: Weight of the KL.
        warmup: Epochs over which the weight grows from 0 to β; 0 for a constant weight.
        anneal: How it grows; `cyclical` starts again every `warmup` epochs.
        free_bits: Nats per latent dimension below which its KL, averaged over the batch, is not penalised.

    Reference:
        Higgins et al., β-VAE, ICLR 2017, eq. 4; warm-up: Bowman et al. 2016; cyclical: Fu et al. 2019; free bits: Kingma et
        al., Improving Variational Inference with Inverse Autoregressive Flow, NeurIPS 2016, eq. 15.
    """

    covers: ClassVar[frozenset[Slot]] = frozenset({"divergence"})
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})
    beta: Tensor

    def __init__(
        self,
        *,
        beta: NonNegativeFloat = 4.0,
        warmup: NonNegativeFloat = 0.0,
        anneal: Shape = "linear",
        free_bits: NonNegativeFloat = 0.0,
    ) -> None:
        super().__init__()
        self.register_buffer("beta", torch.tensor(beta), persistent=False)
        self.warmup, self.anneal, self.free_bits = warmup, anneal, free_bits
        self.batch_statistic = free_bits > 0

    @classmethod
    def declare(cls, options: Mapping[str, Any]) -> Declaration:
        factorised = {Capability.FACTORISED} if options["free_bits"] > 0 else set()
        return Declaration(cls.covers, cls.requires | factorised)

    def forward(self, trace: Trace) -> Tensor:
        weight = self.beta * ramp(trace.epoch, self.warmup, self.anneal)
        if self.free_bits == 0:
            kl = trace.kl
            assert kl is not None  # guaranteed by `requires`, which assembly checks
            return weight * kl
        return weight * sum_free_bits(trace, self.free_bits)


def sum_free_bits(trace: Trace, free_bits: float) -> Tensor:
    """Sum over latents the larger of ``free_bits`` and the KL averaged over the batch, 0-d."""
    kept = []
    for site in trace.sites:
        kl_per_dim = site.kl_per_dim
        if kl_per_dim is None:  # no closed form: one sample per dimension
            q, p = cast("FactorisedDensity", site.q), cast("FactorisedDensity", site.p)
            kl_per_dim = (q.log_prob_per_dim(site.z) - p.log_prob_per_dim(site.z)).flatten(0, -2)
        kept.append(kl_per_dim.mean(0).clamp(min=free_bits).sum())
    return torch.stack(kept).sum()
