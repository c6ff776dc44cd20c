"""Building blocks that backbones share: option types, activations, normalisation, fully connected and residual parts.

Normalisations are per example. There is no batch normalisation: under it an image's code would depend on the rest of the
batch, a batch of one would fail, and a forward pass would change the model.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from vaekit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaekit.interfaces import Shape

Activation = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh"]
Normalization = Literal["none", "layer", "group"]
Widths = tuple[PositiveInt, ...]
Channels = Annotated[Widths, Field(min_length=1)]
Size = tuple[int, int]

_ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def activation_layer(name: Activation) -> nn.Module:
    """Return the nonlinearity called ``name``."""
    return _ACTIVATIONS[name]()


def num_groups(width: int) -> int:
    """Return into how many groups GroupNorm splits ``width`` channels: at most 32, equal, of 8 channels or more each.

    Smaller groups would be constants where a feature map has shrunk to a single position.
    """
    return max(g for g in range(1, 33) if width % g == 0 and (g == 1 or width // g >= 8))


def normalization_layer(name: Literal["layer", "group"], width: int) -> nn.GroupNorm:
    """Return the normalisation of ``(B, width, ...)``, over all of an example (``layer``) or groups of its channels.

    Raises:
        UsageError: ``width`` is below 3: one value normalises to 0 and two to ±1, whatever they were.
    """
    if width < 3:
        raise UsageError(
            "a normalisation of fewer than 3 values erases them",
            given=f"a normalised layer of width {width}",
            expected="a width of 3 or more",
            remedy="widen that layer",
        )
    return nn.GroupNorm(1 if name == "layer" else num_groups(width), width)


def initialize(layer: nn.Module) -> None:
    """Draw the weights inside ``layer`` so that a rectifier after it keeps the scale of the signal; biases become 0.

    PyTorch's own initialisation leaves 0.4 of it at every layer, so that an untrained decoder hardly hears z and a VAE
    starts by ignoring z: on digits, with relu, ``mlp`` and ``cnn`` took over twice the steps to the same ELBO.

    Reference: He et al. 2015, "Delving Deep into Rectifiers", arXiv:1502.01852, equation 10.
    """
    for module in layer.modules():
        if isinstance(module, nn.ConvTranspose2d):  # of its kernel, only every stride-th position meets an output
            fan_in = module.weight[:, 0].numel() / math.prod(module.stride)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            fan_in = module.weight[0].numel()
        else:
            continue
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_in))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def unit(
    build: Callable[..., nn.Module], width: int, activation: Activation, normalization: Normalization = "none"
) -> list[nn.Module]:
    """Return the layer of ``width`` channels that ``build(bias=...)`` makes, with its normalisation and activation.

    A layer before a normalisation is built without bias: the normalisation has its own, and would leave this one
    gradients of rounding noise, which Adam scales up to whole steps.
    """
    layer = build(bias=normalization == "none")
    initialize(layer)
    if normalization == "none":
        return [layer, activation_layer(activation)]
    return [layer, normalization_layer(normalization, width), activation_layer(activation)]


def hidden_layers(
    in_shape: Shape, hidden: Widths, activation: Activation, normalization: Normalization = "none"
) -> list[nn.Module]:
    """Return what flattens ``(B, *in_shape)`` and leads it through linear layers of widths ``hidden``."""
    layers: list[nn.Module] = [nn.Flatten()]
    for width, next_width in pairwise((math.prod(in_shape), *hidden)):
        layers += unit(partial(nn.Linear, width, next_width), next_width, activation, normalization)
    return layers


def fully_connected(
    in_shape: Shape, hidden: Widths, out_shape: Shape, activation: Activation, normalization: Normalization = "none"
) -> nn.Sequential:
    """Return linear layers from ``(B, *in_shape)`` through ``hidden`` to ``(B, *out_shape)``; the last one is bare."""
    width = hidden[-1] if hidden else math.prod(in_shape)
    last = nn.Linear(width, math.prod(out_shape))
    return nn.Sequential(*hidden_layers(in_shape, hidden, activation, normalization), last, nn.Unflatten(1, out_shape))


def check_image(shape: Shape, backbone: str) -> None:
    """Refuse a shape that is not that of an image, which is what ``backbone`` works on."""
    if len(shape) != 3 or min(shape) < 1:
        raise UsageError(
            f"the {backbone} works on images only",
            given=f"shape {tuple(shape)}",
            expected="shape (channels, height, width), each 1 or more",
            remedy="use an mlp, which takes any shape",
        )


def halvings(image_shape: Shape, times: int) -> list[Size]:
    """Return an image's (height, width) and what ``times`` strided 3×3 convolutions make of it: half, rounded up; 1 stays 1."""
    sizes = [(image_shape[1], image_shape[2])]
    for _ in range(times):
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes


def growing(
    doubling: Callable[[int, int, Size, Size], Callable[..., nn.Module]],
    *,
    in_shape: Shape,
    hidden: Widths,
    channels: Widths,
    image_shape: Shape,
    activation: Activation,
    normalization: Normalization,
) -> nn.Sequential:
    """Return linear layers from ``(B, *in_shape)`` to a small feature map, and doublings of it to ``(B, *image_shape)``.

    ``doubling`` is called with (channels, next channels, size, next size) and returns what builds that layer, given
    ``bias``. The last one is bare.
    """
    sizes = halvings(image_shape, len(channels))[::-1]
    map_shape = (channels[0], *sizes[0])
    layers = hidden_layers(in_shape, (*hidden, math.prod(map_shape)), activation, normalization)
    layers.append(nn.Unflatten(1, map_shape))
    for (width, next_width), (size, next_size) in zip(pairwise(channels), pairwise(sizes[:-1]), strict=True):
        layers += unit(doubling(width, next_width, size, next_size), next_width, activation, normalization)
    return nn.Sequential(*layers, doubling(channels[-1], image_shape[0], sizes[-2], sizes[-1])(bias=True))


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions, each after GroupNorm and activation, added to their input: x + f(x).

    Without biases, since all that follows a block is a further block's normalisation or the network's last one. Where the
    number of channels or the stride changes the shape, a 1×1 convolution carries the input over.

    Reference: He et al. 2016, "Identity Mappings in Deep Residual Networks", arXiv:1603.05027, Figure 4e.
    """

    def __init__(self, in_channels: int, out_channels: int, activation: Activation, stride: int = 1) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            normalization_layer("group", in_channels),
            activation_layer(activation),
            nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
            normalization_layer("group", out_channels),
            activation_layer(activation),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shortcut(x) + self.residual(x)
        return y


def residual_stage(
    in_channels: int, out_channels: int, depth: int, activation: Activation, stride: int = 1
) -> list[ResidualBlock]:
    """Return ``depth`` residual blocks, of which the first changes the channels and applies the stride."""
    further = (ResidualBlock(out_channels, out_channels, activation) for _ in range(depth - 1))
    return [ResidualBlock(in_channels, out_channels, activation, stride), *further]
