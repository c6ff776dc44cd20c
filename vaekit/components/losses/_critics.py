"""What losses with a critic share: the network and the terms of both sides."""

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
    """A critic on examples: features, then a logit that is high for data and low for what the model generates.

    The features come from strided convolutions or, for tables, from linear layers. Without batch normalisation, a logit does not
    depend on the rest of the batch.

    Args:
        data_shape: Shape of an example.
        channels: Output channels of the convolutions, each of which halves the size; widths of linear layers for tables.
        hidden: Widths of the linear layers between the features and the logit; None for a logit at every position of the
            features, which judges a patch.

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
        """Return the logits of features ``(N, ...)``: ``(N, P)`` for P patches; P is 1 if the critic judges whole examples."""
        logits: Tensor = at_least_float32(self.head(features))
        return logits


def critic_aim(lr: float) -> Aim:
    """Return the aim that trains the network ``critic`` of a loss by its method ``criticise``, with a separate optimiser."""
    return Aim("criticise", moves=(), own=("critic",), optim=Optim(lr=lr, betas=(0.5, 0.9)), judged=False)


def as_seen(images: Tensor, trace: Trace) -> Tensor:
    """Scale examples ``(*S, B, ...)`` from the data's range to [-1, 1], as a critic sees them.

    Numbers missing in the data are 0 in all examples, so they give nothing away.
    """
    low, high = trace.model.value_range
    scaled: Tensor = (images - low) * (2 / (high - low)) - 1
    return scaled.masked_fill(trace.x.isnan(), 0) if trace.model.missing else scaled


def taken_for_data(logits: Tensor) -> Tensor:
    """Return ``-log D``: the critic's loss on data, and the model's for fooling it."""
    return F.softplus(-logits)


def taken_for_made(logits: Tensor) -> Tensor:
    """Return ``-log(1 - D)``: the critic's loss on what the model generates."""
    return F.softplus(logits)
