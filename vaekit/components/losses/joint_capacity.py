"""The KL of continuous and discrete latents, each held at a growing capacity."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from vaekit.distributions import GaussianAndOneHot
from vaekit.interfaces import Capability, Loss, Slot
from vaekit.nn.schedules import ramp
from vaekit.roles import losses
from vaekit.trace import Trace


@losses("joint_capacity")
class JointCapacity(Loss):
    """``γ |KL_z - C_z| + γ |KL_c - C_c|`` for the Gaussian latents z and the categorical c of `joint`, so that both are used.

    Both capacities grow during training. A categorical variable of K classes holds log K nats at most (2.3 for 10), so a larger
    C_c counts as that. The KLs are averaged over the batch before the absolute values are taken. Both are logged.

    Args:
        gamma: Weight γ.
        capacity: Final capacity C_z of the Gaussian latents, in nats.
        discrete_capacity: Final capacity C_c of the categorical variables, in nats.
        warmup: Epochs over which both grow from 0; 0 for constant ones.

    References:
        Dupont (2018), "Learning Disentangled Joint Continuous and Discrete Representations", NeurIPS, arXiv:1804.00104,
            equation 7.
    """

    covers: ClassVar[frozenset[Slot]] = frozenset({"divergence"})
    requires: ClassVar[frozenset[str]] = frozenset({Capability.LOG_PROB, "joint"})
    requires_of_prior: ClassVar[frozenset[str]] = frozenset({Capability.LOG_PROB})
    samples = None
    batch_statistic = True
    numbers: Tensor

    def __init__(
        self,
        *,
        gamma: PositiveFloat = 30.0,
        capacity: NonNegativeFloat = 5.0,
        discrete_capacity: NonNegativeFloat = 5.0,
        warmup: NonNegativeFloat = 20.0,
    ) -> None:
        super().__init__()
        self.register_buffer("numbers", torch.tensor([gamma, capacity, discrete_capacity]), persistent=False)
        self.warmup = warmup

    def forward(self, trace: Trace) -> Tensor:
        q, kl = cast("GaussianAndOneHot", trace.site.q), trace.site.kl_per_dim
        assert kl is not None  # the space `joint` has a closed form
        continuous, discrete = (each.sum(-1).mean() for each in q.split(kl))
        trace.metrics.update(continuous_kl=continuous, discrete_kl=discrete)
        gamma, capacity, discrete_capacity = self.numbers
        growth = ramp(trace.epoch, self.warmup)
        _, _, classes, positions = q.discrete.log_probs.shape
        most = positions * torch.log(torch.full_like(gamma, max(1, classes)))
        off = (continuous - capacity * growth).abs() + (discrete - torch.minimum(discrete_capacity, most) * growth).abs()
        return torch.mul(gamma, off)
