"""Growing KL targets for continuous and discrete latents."""

from __future__ import annotations

import math
from typing import ClassVar, cast

from torch import Tensor

from vaekit.distributions import GaussianAndOneHot
from vaekit.interfaces import Capability, Loss, Slot
from vaekit.nn.schedules import LinearSchedule, NonNegativeScheduled, scheduled
from vaekit.roles import losses
from vaekit.trace import Trace

GROWING = LinearSchedule(start=0, end=5, epochs=20)


@losses("joint_capacity")
class JointCapacity(Loss):
    """``γ |KL_z - C_z| + γ |KL_c - C_c|`` for the Gaussian and categorical latents of `joint`: keeps both in use.

    A categorical variable of K classes carries at most log K nats (2.3 for 10), which also bounds C_c. The absolute values are
    taken of batch means. Both KLs are logged.

    Args:
        gamma: Weight γ.
        capacity: Capacity C_z of the Gaussian latents, in nats.
        discrete_capacity: Capacity C_c of the categorical variables, in nats.

    References:
        Dupont (2018), "Learning Disentangled Joint Continuous and Discrete Representations", NeurIPS, arXiv:1804.00104,
            equation 7.
    """

    covers: ClassVar[frozenset[Slot]] = frozenset({"divergence"})
    requires: ClassVar[frozenset[str]] = frozenset({Capability.LOG_PROB, "joint"})
    requires_of_prior: ClassVar[frozenset[str]] = frozenset({Capability.LOG_PROB})
    samples = None
    batch_statistic = True

    def __init__(
        self,
        *,
        gamma: NonNegativeScheduled = 30.0,
        capacity: NonNegativeScheduled = GROWING,
        discrete_capacity: NonNegativeScheduled = GROWING,
    ) -> None:
        super().__init__()
        self.gamma, self.capacity, self.discrete_capacity = map(scheduled, (gamma, capacity, discrete_capacity))

    def forward(self, trace: Trace) -> Tensor:
        q, kl = cast("GaussianAndOneHot", trace.site.q), trace.site.kl_per_dim
        assert kl is not None  # the space `joint` has a closed form
        continuous, discrete = (each.sum(-1).mean() for each in q.split(kl))
        trace.metrics.update(continuous_kl=continuous, discrete_kl=discrete)
        _, _, classes, positions = q.discrete.log_probs.shape
        capacity, most = self.discrete_capacity(trace.epoch), positions * math.log(max(1, classes))
        distance = (continuous - self.capacity(trace.epoch)).abs() + (discrete - capacity.clamp(max=most)).abs()
        return self.gamma(trace.epoch) * distance
