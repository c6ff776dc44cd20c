"""A critic on reconstructions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten, tree_unflatten

from vaekit.components.losses._critics import ExampleCritic, critic_aim, critic_input, fake_loss, real_loss
from vaekit.distributions import Density, at_least_float32
from vaekit.interfaces import Aim, Loss, Shape
from vaekit.nn.layers import Channels, Widths
from vaekit.nn.schedules import NonNegativeScheduled, scheduled
from vaekit.roles import losses
from vaekit.trace import Trace, mean_over_samples

TINY = 1e-12
"""Lower bound of a gradient norm in a denominator."""


@losses("adversarial")
class Adversarial(Loss):
    """``-λ log D(x~)``, added to the likelihood: a critic D of reconstructions x~ makes them sharper.

    The critic judges patches of an image or, with ``hidden``, the whole image; losses are averaged over patches. It maximises
    ``log D(x) + log(1 - D(x~))``, or the margins of a hinge loss. Unlike in `vae_gan`, it never sees samples from the prior.
    The loss covers neither reconstruction nor KL. While λ is 0, for example until epoch 5 with ``step(0, 0.5, 5)``, the critic
    is not trained either.

    With ``adaptive``, λ is ``weight |∂ log p(x|z)| / |∂ log D(x~)|`` for each image. Gradients are taken with respect to the
    parameters of the likelihood: a weight of 0.5 makes the norm of the critic's gradient half that of the reconstruction,
    regardless of their units. VQGAN uses gradients with respect to the last layer's weights, averaged over a batch; per-image
    gradients make the weight independent of the batch, the number of processes and the decoder.

    Args:
        data_shape: Shape of an example.
        weight: Weight λ of the model's term, in nats; with ``adaptive``, the ratio of the gradient norms.
        adaptive: Whether λ is relative to the gradient of the reconstruction.
        objective: The critic's objective: the log-likelihood of its decisions, or the hinge loss.
        feature_matching: Weight of ``Σ_l mean |f_l(x) - f_l(x~)|``, the mean absolute difference of the critic's features in
            each layer l, which the model minimises; stabilises training.
        r1: Weight γ of the critic's gradient penalty on real images, ``γ/2 |∂D(x)/∂x|²``.
        channels: Output channels of the critic's convolutions, each of which halves the size; for tables, widths of layers.
        hidden: Widths of linear layers between the features and one logit for the whole image; default: a logit for each patch.
        critic_lr: Learning rate of the critic.

    References:
        Esser et al. (2021), "Taming Transformers for High-Resolution Image Synthesis", CVPR, arXiv:2012.09841, section 3.1.
        Isola et al. (2017), "Image-to-Image Translation with Conditional Adversarial Networks", CVPR, arXiv:1611.07004,
            section 3.2.2 (patches).
        Lim and Ye (2017), "Geometric GAN", arXiv:1705.02894, section 4 (hinge).
        Wang et al. (2018), "High-Resolution Image Synthesis and Semantic Manipulation with Conditional GANs", CVPR,
            arXiv:1711.11585, equation 4 (feature matching).
        Mescheder et al. (2018), "Which Training Methods for GANs do actually Converge?", ICML, arXiv:1801.04406, equation 9 (R1).
    """

    samples = None

    def __init__(
        self,
        data_shape: Shape,
        *,
        weight: NonNegativeScheduled = 10.0,
        adaptive: bool = False,
        objective: Literal["logistic", "hinge"] = "logistic",
        feature_matching: NonNegativeScheduled = 0.0,
        r1: NonNegativeFloat = 0.0,
        channels: Channels = (32, 64, 128),
        hidden: Widths | None = None,
        critic_lr: PositiveFloat = 4e-4,
    ) -> None:
        super().__init__()
        self.weight, self.critic_lr, self.adaptive = scheduled(weight), critic_lr, adaptive
        self.matches, self.feature_matching = feature_matching != 0, scheduled(feature_matching)
        self.hinge, self.r1 = objective == "hinge", r1
        self.critic = ExampleCritic(data_shape, channels, hidden)

    def aims(self) -> dict[str, Aim]:
        return {"adversarial": Aim(), "adversarial_critic": critic_aim(self.critic_lr)}

    def forward(self, trace: Trace) -> Tensor:
        batch = self.batch_of(trace)
        fake = self.layers(trace.reconstruction, trace)
        weight = self.weight(trace.epoch)
        if self.adaptive:
            ratio = self.ratio(trace)
            trace.metrics["adversarial_weight"] = weight * mean_over_samples(ratio)
            weight = weight * ratio
        value = mean_over_samples(weight * self.fooling(self.critic(fake[-1]).unflatten(0, batch)))
        if self.matches:
            distance = self.distance(self.layers(trace.x, trace), fake, batch)
            trace.metrics["adversarial_feature_matching"] = distance
            value = value + self.feature_matching(trace.epoch) * distance
        return value

    def criticise(self, trace: Trace) -> Tensor:
        """Return the critic's loss, ``(B,)``: the mean over data and reconstructions, plus R1."""
        real, fake = self.logits(trace.x, trace), self.logits(trace.reconstruction, trace)
        fake = fake.unflatten(0, self.batch_of(trace))
        right = 0.5 * ((real > 0).to(real).mean(-1) + mean_over_samples((fake < 0).to(fake).mean(-1)))
        trace.metrics["adversarial_critic_accuracy"] = right
        of_data, of_fake = (F.relu(1 - real), F.relu(1 + fake)) if self.hinge else (real_loss(real), fake_loss(fake))
        value = 0.5 * (of_data.mean(-1) + mean_over_samples(of_fake.mean(-1)))
        if self.r1:
            value = value + 0.5 * self.r1 * self.squared_gradient(trace)
        return value * (self.weight(trace.epoch) > 0)

    def fooling(self, logits: Tensor) -> Tensor:
        """Return the model's unweighted loss, given the logits of its reconstructions, ``(*S, B, P)``."""
        return (-logits if self.hinge else real_loss(logits)).mean(-1)

    def batch_of(self, trace: Trace) -> torch.Size:
        """Return the leading dimensions ``(*S, B)`` of the reconstructions."""
        shape = trace.reconstruction.shape
        return shape[: len(shape) - trace.x.ndim + 1]

    def layers(self, images: Tensor, trace: Trace) -> list[Tensor]:
        """Return the critic's features of images ``(*S, B, C, H, W)`` after each layer, ``(N, ...)`` for all N images."""
        features, found = critic_input(images, trace).flatten(0, images.ndim - trace.x.ndim), []
        for layer in self.critic.features:
            features = layer(features)
            if not list(layer.parameters()):  # an activation
                found.append(features)
        return found

    def logits(self, images: Tensor, trace: Trace) -> Tensor:
        """Return the critic's logits of images ``(*S, B, C, H, W)``, ``(N, P)`` for P patches of all N images."""
        logits: Tensor = self.critic(self.layers(images, trace)[-1])
        return logits

    def ratio(self, trace: Trace) -> Tensor:
        """Return the norm of the gradient of ``log p(x|z)`` over that of `fooling`, ``(*S, B)``, without a gradient."""
        batch = self.batch_of(trace)
        of_reconstruction = self.norm(lambda p: p.log_prob(trace.x), trace)
        of_critic = self.norm(lambda p: self.fooling(self.logits(p.mean, trace)).unflatten(0, batch), trace)
        return of_reconstruction / of_critic.clamp(min=TINY)

    def norm(self, function: Callable[[Density], Tensor], trace: Trace) -> Tensor:
        """Return the norm of the gradient of a function of the likelihood, with respect to its parameters, ``(*S, B)``."""
        batch = self.batch_of(trace)
        leaves, form = tree_flatten(trace.likelihood)
        numbers = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.shape[: len(batch)] == batch]

        def total(parameters: list[Tensor]) -> Tensor:
            changed = dict(zip(numbers, parameters, strict=True))
            return function(tree_unflatten([changed.get(i, leaf) for i, leaf in enumerate(leaves)], form)).sum()

        gradients = torch.func.grad(total)([leaves[i].detach() for i in numbers])
        squares = [at_least_float32(each).flatten(len(batch)).square().sum(-1) for each in gradients]
        return torch.stack(squares).sum(0).sqrt()

    def distance(self, real: list[Tensor], fake: list[Tensor], batch: torch.Size) -> Tensor:
        """Return the distance between images and reconstructions in the critic's features, ``(B,)``."""
        total = torch.zeros(batch, device=fake[0].device)
        for one, other in zip(real, fake, strict=True):
            difference = at_least_float32(other).unflatten(0, batch) - at_least_float32(one)
            total = total + difference.abs().flatten(len(batch)).mean(-1)
        return mean_over_samples(total)

    def squared_gradient(self, trace: Trace) -> Tensor:
        """Return ``|∂D(x)/∂x|²`` on real images, where D is the mean logit, ``(B,)``."""

        def total(seen: Tensor) -> Tensor:
            logits: Tensor = self.critic(self.critic.features(seen))
            return logits.mean(-1).sum()

        gradient: Tensor = torch.func.grad(total)(critic_input(trace.x, trace))
        return at_least_float32(gradient).flatten(1).square().sum(-1)
