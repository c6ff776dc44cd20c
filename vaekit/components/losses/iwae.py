"""The importance-weighted bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from vaekit.components.losses._bounds import negative_bound
from vaekit.interfaces import GENERATION, INFERENCE, Aim, Capability, Declaration, Loss, Slot
from vaekit.roles import losses
from vaekit.schema import Count
from vaekit.trace import Trace, detached


@losses("iwae")
class IWAE(Loss):
    """``-log (1/K) sum_k p(x, z_k) / q(z_k|x)``: a bound on log p(x) from K samples, tighter than the ELBO for K > 1.

    Training takes about K times as long, since every sample is decoded. The plain ELBO is reported as well.

    Args:
        num_samples: Number of importance samples K.
        dreg: Whether to use the doubly reparameterised gradient for the encoder; its variance does not grow with K.

    References:
        Burda et al. (2016), "Importance Weighted Autoencoders", ICLR, arXiv:1509.00519, equation 8.
        Tucker et al. (2019), "Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives", ICLR, arXiv:1810.04152.
    """

    covers: ClassVar[frozenset[Slot]] = frozenset({"reconstruction", "divergence"})
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB_OF_DRAWS})

    def __init__(self, *, num_samples: Count = 5, dreg: bool = False) -> None:
        super().__init__()
        self.samples, self.dreg = (num_samples,), dreg

    @classmethod
    def declare(cls, options: Mapping[str, Any]) -> Declaration:
        needed = {Capability.LOG_PROB} if options["dreg"] else set()  # for the gradient of log q with respect to the codes
        return replace(super().declare(options), requires=cls.requires | needed)

    def aims(self) -> dict[str, Aim]:
        if not self.dreg:
            return {}
        return {"iwae": Aim(moves=GENERATION), "dreg": Aim("doubly_reparameterised", moves=INFERENCE, judged=False)}

    def forward(self, trace: Trace) -> Tensor:
        return negative_bound(trace.log_weight)

    def doubly_reparameterised(self, trace: Trace) -> Tensor:
        """Return a value with the bound's gradient for q: weights are squared, and gradients reach q only through the codes."""
        weight = trace.log_likelihood
        for site in trace.sites:
            weight = weight + site.log_p - detached(site.q).log_prob(site.z)
        shares = torch.softmax(weight.detach(), 0)
        return -(shares.square() * weight).sum(0)
