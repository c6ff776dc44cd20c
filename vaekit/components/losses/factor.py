"""The total correlation, estimated by a critic."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import PositiveFloat
from torch import Tensor

from vaekit.components.losses._critics import critic_aim, fake_loss, real_loss
from vaekit.interfaces import Aim, Capability, Loss, Slot
from vaekit.nn.layers import Widths, fully_connected
from vaekit.nn.schedules import NonNegativeScheduled, scheduled
from vaekit.roles import losses
from vaekit.trace import Trace


@losses("factor")
class Factor(Loss):
    """``KL + γ TC``: FactorVAE penalises the dependence between latents, as `tc` does, but estimates it with a critic.

    The critic distinguishes codes from codes whose latents are permuted across the batch; its logit estimates the log density
    ratio. It has its own optimiser, and its loss is not part of the objective.

    Args:
        latent_dim: Number of latents.
        gamma: Weight γ of the total correlation.
        hidden: Widths of the critic's hidden layers.
        critic_lr: Learning rate of the critic.

    References:
        Kim and Mnih (2018), "Disentangling by Factorising", ICML, arXiv:1802.05983, equation 2 and algorithm 2.
    """

    covers: ClassVar[frozenset[Slot]] = frozenset({"divergence"})
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB_OF_DRAWS})
    batch_statistic = True

    def __init__(
        self,
        latent_dim: int,
        *,
        gamma: NonNegativeScheduled = 6.0,
        hidden: Widths = (256, 256, 256),
        critic_lr: PositiveFloat = 1e-4,
    ) -> None:
        super().__init__()
        self.gamma = scheduled(gamma)
        self.critic_lr = critic_lr
        self.critic = fully_connected((latent_dim,), hidden, (1,), "leaky_relu")

    def aims(self) -> dict[str, Aim]:
        return {"factor": Aim(), "critic": critic_aim(self.critic_lr)}

    def forward(self, trace: Trace) -> Tensor:
        kl, total_correlation = trace.kl, self.critic(trace.z).squeeze(-1)
        assert kl is not None  # guaranteed by `requires`, which assembly checks
        trace.metrics["total_correlation"] = total_correlation
        value: Tensor = kl + self.gamma(trace.epoch) * total_correlation
        return value

    def criticise(self, trace: Trace) -> Tensor:
        """Return the critic's cross-entropy on codes and permuted codes, ``(B,)``.

        Latent d is shifted by d + 1 images, since the images of a batch are already in random order.
        """
        z = trace.z
        shuffled = torch.stack([latent.roll(1 + d) for d, latent in enumerate(z.unbind(-1))], -1)
        real, other = self.critic(z).squeeze(-1), self.critic(shuffled).squeeze(-1)
        return 0.5 * (real_loss(real) + fake_loss(other))
