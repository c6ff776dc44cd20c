"""A classifier of the codes."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from vaekit.distributions import at_least_float32
from vaekit.errors import UsageError
from vaekit.interfaces import Loss
from vaekit.nn.layers import Widths, fully_connected
from vaekit.nn.schedules import NonNegativeScheduled, scheduled
from vaekit.roles import losses
from vaekit.trace import Trace, mean_over_samples


@losses("classifier")
class Classifier(Loss):
    """``-weight log p(y|z)``: a classifier of the codes, trained jointly with the model, so that codes separate the classes.

    Without hidden layers, the classes become linearly separable. ``accuracy`` is logged for sampled codes, noise included.
    Every example needs a label. The loss covers neither reconstruction nor KL.

    Args:
        latent_dim: Number of latents.
        num_classes: Number of classes.
        weight: Weight of the loss.
        hidden: Widths of the classifier's hidden layers.

    References:
        Kingma et al. (2014), "Semi-supervised Learning with Deep Generative Models", NeurIPS, arXiv:1406.5298, section 2 (M1).
    """

    samples = None

    def __init__(self, latent_dim: int, num_classes: int, *, weight: NonNegativeScheduled = 10.0, hidden: Widths = ()) -> None:
        super().__init__()
        self.weight = scheduled(weight)
        self.network = fully_connected((latent_dim,), hidden, (num_classes,), "silu")

    def forward(self, trace: Trace) -> Tensor:
        if trace.y is None:
            raise UsageError(
                "the loss 'classifier' needs labels, but the trace has none",
                expected="labels y, one per example",
                remedy="call the model with y=labels",
            )
        z = trace.z
        logits = at_least_float32(self.network(z.reshape(-1, z.shape[-1])))
        labels = trace.y.expand(z.shape[:-1])
        right = logits.argmax(-1).reshape(labels.shape) == labels
        trace.metrics["accuracy"] = mean_over_samples(right.to(logits.dtype)).detach()
        errors = F.cross_entropy(logits, labels.reshape(-1), reduction="none").reshape(labels.shape)
        return self.weight(trace.epoch) * mean_over_samples(errors)
