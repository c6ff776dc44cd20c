"""A critic that compares codes with the prior."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import PositiveFloat
from torch import Tensor

from vaekit.components.losses._critics import critic_aim, fake_loss, real_loss
from vaekit.distributions import at_least_float32
from vaekit.interfaces import Aim, Capability, Loss, Slot
from vaekit.nn.layers import Widths, fully_connected
from vaekit.nn.schedules import NonNegativeScheduled, scheduled
from vaekit.roles import losses
from vaekit.trace import Trace


@losses("aae")
class AAE(Loss):
    """``-λ log D(z)``: the adversarial autoencoder, in which a critic D replaces the KL.

    The critic learns to distinguish prior samples from codes: it maximises ``log D(z_p) + log(1 - D(z))``. This matches the
    aggregate posterior, not the posterior of each image, to the prior. The posterior needs no density: with `delta`, the model
    is an autoencoder that can be sampled from. The logit of D estimates the log ratio of the two densities; its negative mean
    over codes is logged as ``aggregate_kl``, an estimate of KL(q(z) ‖ p(z)). A learnable prior is fitted to the codes by
    maximum likelihood.

    With a much larger weight, the codes match the prior before they carry information; on digits, a weight of 50 left the codes
    almost uninformative.

    Args:
        latent_dim: Number of latents.
        weight: Weight λ of the encoder's term, in nats.
        hidden: Widths of the critic's hidden layers.
        critic_lr: Learning rate of the critic.

    References:
        Makhzani et al. (2016), "Adversarial Autoencoders", ICLR Workshop, arXiv:1511.05644, section 2.
    """

    covers: ClassVar[frozenset[Slot]] = frozenset({"divergence"})
    requires_of_prior: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})

    def __init__(
        self,
        latent_dim: int,
        *,
        weight: NonNegativeScheduled = 10.0,
        hidden: Widths = (256, 256),
        critic_lr: PositiveFloat = 1e-3,
    ) -> None:
        super().__init__()
        self.weight, self.critic_lr = scheduled(weight), critic_lr
        self.critic = fully_connected((latent_dim,), hidden, (1,), "leaky_relu")

    def aims(self) -> dict[str, Aim]:
        return {
            "aae": Aim(),
            "aae_prior": Aim("fit_prior", moves=("prior",), judged=False),
            "aae_critic": critic_aim(self.critic_lr),
        }

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor, model: Any) -> Tensor:
        """Draw the base noise of ``num`` prior samples."""
        noise: Tensor = model.prior.draw_noise(num, generator, like=like)
        return noise

    def forward(self, trace: Trace) -> Tensor:
        logits = self.logits(trace.z)
        trace.metrics["aggregate_kl"] = -logits
        return self.weight(trace.epoch) * real_loss(logits)

    def fit_prior(self, trace: Trace) -> Tensor:
        """Return ``-log p(z)``, ``(B,)``."""
        return -trace.site.log_p

    def criticise(self, trace: Trace) -> Tensor:
        """Return the critic's cross-entropy on prior samples and codes, ``(B,)``."""
        drawn, coded = self.logits(trace.site.p.rsample(self.noise_of(trace))), self.logits(trace.z)
        trace.metrics["aae_critic_accuracy"] = 0.5 * ((drawn > 0).to(drawn) + (coded < 0).to(drawn))
        return 0.5 * (real_loss(drawn) + fake_loss(coded))

    def logits(self, z: Tensor) -> Tensor:
        """Return the critic's logits of codes, ``(B,)``."""
        return at_least_float32(self.critic(z).squeeze(-1))
