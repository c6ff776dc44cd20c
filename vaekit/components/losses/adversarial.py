"""A critic on reconstructions."""

from __future__ import annotations

from pydantic import PositiveFloat
from torch import Tensor

from vaekit.components.losses._critics import ExampleCritic, as_seen, critic_aim, taken_for_data, taken_for_made
from vaekit.interfaces import Aim, Loss, Shape
from vaekit.nn.layers import Channels, Widths
from vaekit.nn.schedules import NonNegativeScheduled, scheduled
from vaekit.roles import losses
from vaekit.trace import Trace, mean_over_samples


@losses("adversarial")
class Adversarial(Loss):
    """``-λ log D(x~)``, added to the likelihood: sharpens reconstructions x~, which a critic D tells from data.

    The critic maximises ``log D(x) + log(1 - D(x~))``. The loss covers neither reconstruction nor KL. It sharpens samples from
    the prior no further than reconstructions; in `vae_gan`, the critic sees samples, too.

    Args:
        data_shape: Shape of an example.
        weight: Weight λ of the model's term, in nats.
        channels: Output channels of the critic's convolutions, each of which halves the size; for tables, widths of layers.
        hidden: Widths of the linear layers between the convolutions and the logit.
        critic_lr: Learning rate of the critic.

    References:
        Esser et al. (2021), "Taming Transformers for High-Resolution Image Synthesis", CVPR, arXiv:2012.09841, section 3.1.
    """

    samples = None

    def __init__(
        self,
        data_shape: Shape,
        *,
        weight: NonNegativeScheduled = 10.0,
        channels: Channels = (32, 64, 128),
        hidden: Widths = (256,),
        critic_lr: PositiveFloat = 4e-4,
    ) -> None:
        super().__init__()
        self.weight, self.critic_lr = scheduled(weight), critic_lr
        self.critic = ExampleCritic(data_shape, channels, hidden)

    def aims(self) -> dict[str, Aim]:
        return {"adversarial": Aim(), "adversarial_critic": critic_aim(self.critic_lr)}

    def forward(self, trace: Trace) -> Tensor:
        return self.weight(trace.epoch) * mean_over_samples(taken_for_data(self.logits(trace.reconstruction, trace)))

    def criticise(self, trace: Trace) -> Tensor:
        """Return the cross-entropy of the critic on data and on reconstructions, ``(B,)``."""
        real, made = self.logits(trace.x, trace), self.logits(trace.reconstruction, trace)
        right = 0.5 * ((real > 0).to(real) + mean_over_samples((made < 0).to(made)))
        trace.metrics["adversarial_critic_accuracy"] = right
        return 0.5 * (taken_for_data(real) + mean_over_samples(taken_for_made(made)))

    def logits(self, images: Tensor, trace: Trace) -> Tensor:
        """Return the critic's logits of images ``(*S, B, C, H, W)``, ``(*S, B)``."""
        seen = as_seen(images, trace)
        batch = seen.shape[: seen.ndim - trace.x.ndim + 1]
        logits: Tensor = self.critic(self.critic.features(seen.flatten(0, len(batch) - 1)))
        unflattened: Tensor = logits.unflatten(0, batch)
        return unflattened
