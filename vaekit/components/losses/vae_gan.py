"""A critic on images, whose features measure the reconstruction."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from vaekit.components.losses._critics import ExampleCritic, as_seen, taken_for_data, taken_for_made
from vaekit.distributions import sum_event
from vaekit.errors import UsageError
from vaekit.interfaces import INFERENCE, Aim, Loss, Optim, Shape, Slot
from vaekit.nn.layers import Channels, Widths
from vaekit.roles import losses
from vaekit.trace import Trace


@losses("vae_gan")
class VAEGAN(Loss):
    """``|f(x) - f(x~)|² / 2``: VAE-GAN compares an image with its reconstruction by features f of a critic that learns them.
    """

    covers: ClassVar[frozenset[Slot]] = frozenset({"reconstruction"})
    gamma: Tensor

    def __init__(
        self,
        data_shape: Shape,
        *,
        gamma: NonNegativeFloat = 0.01,
        channels: Channels = (32, 64, 128),
        hidden: Widths = (256,),
        critic_lr: PositiveFloat = 1e-3,
    ) -> None:
        super().__init__()
        self.register_buffer("gamma", torch.tensor(gamma), persistent=False)
        self.critic_lr = critic_lr
        self.critic = ExampleCritic(data_shape, channels, hidden)

    def aims(self) -> dict[str, Aim]:
        optim = Optim(lr=self.critic_lr, betas=(0.5, 0.9))
        return {
            "feature_matching": Aim(moves=INFERENCE),
            "vae_gan_decoder": Aim("generate", moves=("decoder", "condition"), judged=False),
            "vae_gan_likelihood": Aim("fit_likelihood", moves=("likelihood",), judged=False),
            "vae_gan_critic": Aim("criticise", moves=(), own=("critic",), optim=optim, judged=False),
        }

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor, model: Any) -> Tensor:
        """Draw the base noise of ``num`` latent vectors of the prior."""
        noise: Tensor = model.prior.draw_noise(num, generator, like=like)
        return noise

    def forward(self, trace: Trace) -> Tensor:
        return self.distance(self.features(trace.x, trace), self.features(trace.reconstruction, trace))

    def generate(self, trace: Trace) -> Tensor:
        """Return the decoder's term, ``(B,)``."""
        real, made = self.features(trace.x, trace), self.features(trace.reconstruction, trace)
        drawn = self.features(self.samples_of(trace), trace)
        fooling = taken_for_data(self.critic(made)) + taken_for_data(self.critic(drawn))
        value: Tensor = self.gamma * self.distance(real, made) + fooling
        return value

    def fit_likelihood(self, trace: Trace) -> Tensor:
        """Return ``-log p(x|z)``, ``(B,)``."""
        return -trace.log_likelihood

    def criticise(self, trace: Trace) -> Tensor:
        """Return the critic's term, ``(B,)``."""
        real, made, drawn = (
            self.critic(self.features(images, trace)) for images in (trace.x, trace.reconstruction, self.samples_of(trace))
        )
        trace.metrics["vae_gan_critic_accuracy"] = (2.0 * (real > 0) + (made < 0) + (drawn < 0)) / 4
        return taken_for_data(real) + taken_for_made(made) + taken_for_made(drawn)

    def features(self, images: Tensor, trace: Trace) -> Tensor:
        features: Tensor = self.critic.features(as_seen(images, trace))
        return features

    def distance(self, real: Tensor, made: Tensor) -> Tensor:
        return 0.5 * sum_event((real - made).square(), real.ndim - 1)

    def samples_of(self, trace: Trace) -> Tensor:
        """Return the mean images of draws from the prior, ``(B, C, H, W)``."""
        if "vae_gan" not in trace.draws:
            raise UsageError(
                "the loss 'vae_gan' decodes draws from the prior, and the trace has none",
                given=f"draws of {', '.join(trace.draws) or 'no loss'}",
                expected="noise under 'vae_gan' in trace.draws",
                remedy='call the model with draws={"vae_gan": loss.draw_noise(len(x), like=x, model=model)}',
            )
        model, z = trace.model, trace.site.p.rsample(trace.draws["vae_gan"])
        images: Tensor = model.likelihood_of(z, model.condition_on(trace.y)).mean
        return images
