"""Building blocks of backbones: option types, activations, normalisation, fully connected and residual layers.

Normalisation is always per example. There is no batch normalisation: a code would depend on the rest of the batch, a batch of
one would fail, and a forward pass would change the model.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from vaekit.errors import UsageError
from vaekit.schema import Count

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaekit.interfaces import Shape

Activation = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh"]
Normalization = Literal["none", "layer", "group"]
Widths = tuple[Count, ...]
Channels = Annotated[Widths, Field(min_length=1)]
Size = tuple[int, ...]
"""The sides of an example: length; height and width; or depth, height and width."""

CONVOLUTIONS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED_CONVOLUTIONS: dict[int, type[nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
LINEAR_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
"""Convolutions and torch's names of linear upsampling, by number of sides."""

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
    """Return the number of GroupNorm groups for ``width`` channels: at most 32, with at least 8 channels each.

    Smaller groups could become constant in feature maps of a single position.
    """
    return max(g for g in range(1, 33) if width % g == 0 and (g == 1 or width // g >= 8))


def normalization_layer(name: Literal["layer", "group"], width: int) -> nn.GroupNorm:
    """Return a normalisation layer for ``(B, width, ...)``: over a whole example (``layer``) or over channel groups.

    Raises:
        UsageError: ``width`` is below 3: a single value always normalises to 0, and two to ±1.
    """
    if width < 3:
        raise UsageError(
            "normalising fewer than 3 values removes their information",
            given=f"a normalised layer of width {width}",
            expected="a width of 3 or more",
            remedy="use a wider layer",
        )
    return nn.GroupNorm(1 if name == "layer" else num_groups(width), width)


def initialize_weights(layer: nn.Module) -> None:
    """Initialise ``layer`` so that the scale of a signal is preserved through the rectifier that follows; set biases to 0.

    PyTorch's default initialisation shrinks the signal by a factor of 0.4 per layer. An untrained decoder then hardly depends
    on z, and a VAE starts by ignoring z: on digits with relu, ``mlp`` and ``cnn`` took more than twice as many steps to reach
    the same ELBO.

    References:
        He et al. (2015), "Delving Deep into Rectifiers: Surpassing Human-Level Performance on ImageNet Classification", ICCV,
            arXiv:1502.01852, equation 10.
    """
    for module in layer.modules():
        if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            # Only every stride-th position of its kernel contributes to an output.
            fan_in = module.weight[:, 0].numel() / math.prod(module.stride)
        elif isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            fan_in = module.weight[0].numel()
        else:
            continue
        if module.weight.is_meta:  # has no values, and torch would load its compiler
            continue
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_in))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def hidden_layer(
    build: Callable[..., nn.Module], width: int, activation: Activation, normalization: Normalization = "none"
) -> list[nn.Module]:
    """Return the layer of ``width`` channels built by ``build(bias=...)``, with its normalisation and activation.

    A layer followed by a normalisation has no bias: the normalisation has its own, and the gradient of the layer's bias would
    be rounding noise, which Adam scales up to full steps.
    """
    layer = build(bias=normalization == "none")
    initialize_weights(layer)
    if normalization == "none":
        return [layer, activation_layer(activation)]
    return [layer, normalization_layer(normalization, width), activation_layer(activation)]


def hidden_linear_layers(
    in_shape: Shape, widths: Widths, activation: Activation, normalization: Normalization = "none"
) -> list[nn.Module]:
    """Return layers that flatten ``(B, *in_shape)`` and apply hidden linear layers of the given widths."""
    layers: list[nn.Module] = [nn.Flatten()]
    for width, next_width in pairwise((math.prod(in_shape), *widths)):
        layers += hidden_layer(partial(nn.Linear, width, next_width), next_width, activation, normalization)
    return layers


def fully_connected(
    in_shape: Shape, hidden: Widths, out_shape: Shape, activation: Activation, normalization: Normalization = "none"
) -> nn.Sequential:
    """Return a fully connected network from ``(B, *in_shape)`` through ``hidden`` to ``(B, *out_shape)``.

    The output layer has neither normalisation nor activation.
    """
    width = hidden[-1] if hidden else math.prod(in_shape)
    output = nn.Linear(width, math.prod(out_shape))
    return nn.Sequential(*hidden_linear_layers(in_shape, hidden, activation, normalization), output, nn.Unflatten(1, out_shape))


def sides_of(data_shape: Shape, backbone: str) -> Size:
    """Return the sides of a signal, an image or a volume: its shape without the channels.

    Args:
        data_shape: The shape of an example.
        backbone: Name of the backbone, for the error message.

    Raises:
        UsageError: ``data_shape`` is not ``(C, L)``, ``(C, H, W)`` or ``(C, D, H, W)``.
    """
    if len(data_shape) - 1 not in CONVOLUTIONS or min(data_shape) < 1:
        raise UsageError(
            f"the {backbone} supports signals, images and volumes only",
            given=f"{'a table' if len(data_shape) == 1 else 'data'} of shape {tuple(data_shape)}",
            expected="shape (channels, length), (channels, height, width) or (channels, depth, height, width), each 1 or more",
            remedy="use an mlp, which supports any shape: --encoder mlp --decoder mlp",
        )
    return tuple(data_shape[1:])


def halved_sizes(size: Size, num: int) -> list[Size]:
    """Return a size, then the sizes after each of ``num`` strided convolutions with kernels of size 3.

    Each convolution halves every side, rounding up; a side of 1 stays 1.
    """
    sizes = [size]
    for _ in range(num):
        sizes.append(tuple((side + 1) // 2 for side in sizes[-1]))
    return sizes


def halvings_to(sides: Shape, size: Size, most: int) -> int | None:
    """Return how many times a size must be halved to reach a grid of latents; None if ``most`` times do not suffice.

    Networks then map the grid position by position instead of by fully connected layers.
    """
    sizes = halved_sizes(size, most)
    return sizes.index(tuple(sides)) if tuple(sides) in sizes else None


def upsampled_sizes(in_shape: Shape, size: Size, num: int) -> list[Size]:
    """Return the sizes before, between and after ``num`` decoder layers that upsample latents to a size.

    They double, starting from ``num`` halvings of the size. For a grid of latents, they start at its size, and the first ones
    do not double.
    """
    halvings = halvings_to(in_shape[1:], size, num)
    sizes = halved_sizes(size, num if halvings is None else halvings)[::-1]
    return [sizes[0]] * (num + 1 - len(sizes)) + sizes


def strides_to(sides: Shape, size: Size, num: int) -> list[int]:
    """Return the strides of ``num`` encoder convolutions: 2 until the sides of a grid of latents are reached, then 1."""
    halvings = halvings_to(sides, size, num)
    return [2 if halvings is None or i < halvings else 1 for i in range(num)]


def parameters_head(
    width: int,
    size: Size,
    num: int,
    out_shape: Shape,
    *,
    hidden: Widths = (),
    activation: Activation,
    normalization: Normalization = "none",
) -> nn.Sequential:
    """Return the last layers of a convolutional encoder, from ``width`` channels to posterior parameters.

    These are an activation and fully connected layers or, for a grid of parameters ``(K, C, *sides)``, a pointwise convolution.
    The feature map is flattened before the activation: its backward pass is twice as slow on a CPU if the gradient and the map
    differ in their memory formats.

    Args:
        width: The number of channels of the feature map.
        size: The sides of the example.
        num: The number of convolutions with strides from `strides_to`.
        out_shape: The shape of the parameters.
        hidden: Widths of the hidden linear layers.
        activation: Nonlinearity of the feature map and after every hidden layer.
        normalization: Normalisation of every hidden layer.
    """
    nonlinearity = activation_layer(activation)
    if halvings_to(out_shape[2:], size, num) is None:
        feature_shape = (width, *halved_sizes(size, num)[-1])
        flatten, *linear = fully_connected(feature_shape, hidden, out_shape, activation, normalization)
        return nn.Sequential(flatten, nonlinearity, *linear)
    convolution = CONVOLUTIONS[len(size)](width, math.prod(out_shape[:2]), 1)
    return nn.Sequential(nonlinearity, convolution, nn.Unflatten(1, out_shape[:2]))


class ResidualBlock(nn.Module):
    """A residual block, x + f(x): two convolutions with kernels of size 3, each preceded by GroupNorm and an activation.

    The convolutions have no biases, since a block is always followed by a normalisation: the next block's or the network's last
    one. If the number of channels or the stride changes the shape, a pointwise convolution adapts the input.

    References:
        He et al. (2016), "Identity Mappings in Deep Residual Networks", ECCV, arXiv:1603.05027, figure 4e.
    """

    def __init__(self, num_sides: int, in_channels: int, out_channels: int, activation: Activation, stride: int = 1) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[num_sides]
        self.residual = nn.Sequential(
            normalization_layer("group", in_channels),
            activation_layer(activation),
            convolution(in_channels, out_channels, 3, stride, padding=1, bias=False),
            normalization_layer("group", out_channels),
            activation_layer(activation),
            convolution(out_channels, out_channels, 3, padding=1, bias=False),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = convolution(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shortcut(x) + self.residual(x)
        return y


def residual_stage(
    num_sides: int, in_channels: int, out_channels: int, depth: int, activation: Activation, *, stride: int = 1
) -> list[ResidualBlock]:
    """Return ``depth`` residual blocks; the first changes the number of channels and has the stride."""
    others = (ResidualBlock(num_sides, out_channels, out_channels, activation) for _ in range(depth - 1))
    return [ResidualBlock(num_sides, in_channels, out_channels, activation, stride), *others]
