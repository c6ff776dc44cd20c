"""VAE-GAN: reconstruction in the features of a critic."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import PositiveFloat
from torch import Tensor

from vaekit.components.losses._critics import ExampleCritic, critic_aim, critic_input, fake_loss, real_loss
from vaekit.distributions import sum_event
from vaekit.interfaces import INFERENCE, Aim, Loss, Shape, Slot
from vaekit.nn.layers import Channels, Widths
from vaekit.nn.schedules import NonNegativeScheduled, scheduled
from vaekit.roles import losses
from vaekit.trace import Trace


@losses("vae_gan")
class VAEGAN(Loss):
    """``|f(x) - f(x~)|² / 2``: VAE-GAN compares an image with its reconstruction x~ in the features f of a critic D.

    Unlike a squared error of pixels, the feature distance hardly penalises sharp edges that are a pixel off. Three players are
    trained simultaneously: the encoder minimises the feature distance and the KL; the decoder minimises γ times that distance,
    and ``-log D(x~) - log D(x_p)`` for reconstructions and for samples x_p from the prior; the critic maximises ``log D(x) +
    log(1 - D(x~)) + log(1 - D(x_p))``. Only the critic trains the features. A learned prior plays with the decoder; parameters
    of the likelihood, such as σ, are fitted to the reconstructions. The reported ELBO is that of pixels, which the model does
    not maximise.

    Watch ``vae_gan_critic_accuracy``: near 1, the critic gives the decoder no useful gradient; lower its learning rate or raise
    γ. A step takes several times as long as that of a VAE. A critic easily distinguishes binary pixels from grey means, so use
    a likelihood of grey pixels, such as `mse`.

    Args:
        data_shape: Shape of an example.
        gamma: Weight γ of the feature distance for the decoder: higher for faithful reconstructions, lower for realistic images.
        channels: Output channels of the critic's convolutions, each of which halves the size; for tables, widths of layers. The
            last one outputs the features f.
        hidden: Widths of the linear layers between the features and the logit.
        critic_lr: Learning rate of the critic.

    References:
        Larsen et al. (2016), "Autoencoding beyond pixels using a learned similarity metric", ICML, arXiv:1512.09300, algorithm 1.
    """

    covers: ClassVar[frozenset[Slot]] = frozenset({"reconstruction"})

    def __init__(
        self,
        data_shape: Shape,
        *,
        gamma: NonNegativeScheduled = 0.1,
        channels: Channels = (32, 64, 128),
        hidden: Widths = (256,),
        critic_lr: PositiveFloat = 4e-4,
    ) -> None:
        super().__init__()
        self.gamma, self.critic_lr = scheduled(gamma), critic_lr
        self.critic = ExampleCritic(data_shape, channels, hidden)

    def aims(self) -> dict[str, Aim]:
        return {
            "feature_matching": Aim(moves=INFERENCE),
            "vae_gan_decoder": Aim("generate", moves=("decoder", "prior", "condition"), judged=False),
            "vae_gan_likelihood": Aim("fit_likelihood", moves=("likelihood",), judged=False),
            "vae_gan_critic": critic_aim(self.critic_lr),
        }

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor, model: Any) -> Tensor:
        """Draw the base noise of ``num`` prior samples."""
        noise: Tensor = model.prior.draw_noise(num, generator, like=like)
        return noise

    def forward(self, trace: Trace) -> Tensor:
        return self.distance(self.features(trace.x, trace), self.features(trace.reconstruction, trace))

    def generate(self, trace: Trace) -> Tensor:
        """Return the decoder's loss, γ times the distance plus the loss for fooling the critic, ``(B,)``."""
        real, fake = self.features(trace.x, trace), self.features(trace.reconstruction, trace)
        drawn = self.features(self.samples_of(trace), trace)
        fooling = real_loss(self.logits(fake)) + real_loss(self.logits(drawn))
        value: Tensor = self.gamma(trace.epoch) * self.distance(real, fake) + fooling
        return value

    def fit_likelihood(self, trace: Trace) -> Tensor:
        """Return ``-log p(x|z)``, ``(B,)``."""
        return -trace.log_likelihood

    def criticise(self, trace: Trace) -> Tensor:
        """Return the critic's loss on data, reconstructions and samples, ``(B,)``."""
        real, fake, drawn = (
            self.logits(self.features(images, trace)) for images in (trace.x, trace.reconstruction, self.samples_of(trace))
        )
        trace.metrics["vae_gan_critic_accuracy"] = (2.0 * (real > 0) + (fake < 0) + (drawn < 0)) / 4
        return real_loss(real) + fake_loss(fake) + fake_loss(drawn)

    def features(self, images: Tensor, trace: Trace) -> Tensor:
        """Return the features of images, ``(B, ...)``."""
        features: Tensor = self.critic.features(critic_input(images, trace))
        return features

    def logits(self, features: Tensor) -> Tensor:
        """Return the critic's logits of features, ``(B,)``."""
        logits: Tensor = self.critic(features).squeeze(-1)
        return logits

    def distance(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return ``-log N(f(x); f(x~), I)`` up to a constant, ``(B,)``."""
        return 0.5 * sum_event((real - fake).square(), real.ndim - 1)

    def samples_of(self, trace: Trace) -> Tensor:
        """Return the mean images of prior samples, ``(B, C, H, W)``."""
        model, z = trace.model, trace.site.p.rsample(self.noise_of(trace))
        images: Tensor = model.likelihood_of(z, model.condition_on(trace.y)).mean
        return images
