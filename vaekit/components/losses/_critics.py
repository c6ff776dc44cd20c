"""Parts of the losses with a critic: the network and the loss terms of both players."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from vaekit.distributions import at_least_float32
from vaekit.interfaces import Aim, Optim, Shape
from vaekit.nn.layers import CONVOLUTIONS, Channels, Widths, fully_connected, halved_sizes, hidden_layer, hidden_linear_layers
from vaekit.trace import Trace


class ExampleCritic(nn.Module):
    """A critic on examples: features, then a logit that is high for real and low for generated examples.

    The features come from strided convolutions or, for tables, from linear layers. There is no batch normalisation, so a logit
    does not depend on the rest of the batch.

    Args:
        data_shape: Shape of an example.
        channels: Output channels of the convolutions, each of which halves the size; for tables, widths of linear layers.
        hidden: Widths of the linear layers between the features and the logit; None for a logit per position, which judges a
            patch.

    References:
        Isola et al. (2017), "Image-to-Image Translation with Conditional Adversarial Networks", CVPR, arXiv:1611.07004,
            section 3.2.2 (patches).
    """

    def __init__(self, data_shape: Shape, channels: Channels, hidden: Widths | None) -> None:
        super().__init__()
        _, *size = data_shape
        if not size:
            shape: Shape = (channels[-1],)
            layers = hidden_linear_layers(data_shape, channels, "leaky_relu")
        else:
            shape = (channels[-1], *halved_sizes(tuple(size), len(channels))[-1])
            layers = []
            for width, next_width in pairwise((data_shape[0], *channels)):
                convolution = partial(CONVOLUTIONS[len(size)], width, next_width, 3, stride=2, padding=1)
                layers += hidden_layer(convolution, next_width, "leaky_relu")
        self.features = nn.Sequential(*layers)
        self.head: nn.Module
        if size and hidden is None:
            self.head = nn.Sequential(CONVOLUTIONS[len(size)](channels[-1], 1, 3, padding=1), nn.Flatten())
        else:
            self.head = nn.Sequential(fully_connected(shape, hidden or (), (1,), "leaky_relu"))

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits of features ``(N, ...)``, ``(N, P)`` for P patches; P is 1 if the critic judges whole examples."""
        logits: Tensor = at_least_float32(self.head(features))
        return logits


def critic_aim(lr: float) -> Aim:
    """Return the aim that trains a loss's network ``critic`` through its method ``criticise``, with a separate optimiser."""
    return Aim("criticise", moves=(), own=("critic",), optim=Optim(lr=lr, betas=(0.5, 0.9)), judged=False)


def critic_input(images: Tensor, trace: Trace) -> Tensor:
    """Scale examples ``(*S, B, ...)`` from the data range to [-1, 1], the critic's input range.

    Values missing in the data are set to 0 in real and generated examples alike, so that the critic cannot exploit them.
    """
    low, high = trace.model.value_range
    scaled: Tensor = (images - low) * (2 / (high - low)) - 1
    return scaled.masked_fill(trace.x.isnan(), 0) if trace.model.missing else scaled


def real_loss(logits: Tensor) -> Tensor:
    """Return ``-log D``: the critic's loss on real examples, and the model's loss for fooling the critic."""
    return F.softplus(-logits)


def fake_loss(logits: Tensor) -> Tensor:
    """Return ``-log(1 - D)``: the critic's loss on generated examples."""
    return F.softplus(logits)
