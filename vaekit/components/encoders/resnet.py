"""The encoder ``resnet``."""

from __future__ import annotations

from torch import Tensor, nn

from vaekit.interfaces import Backbone, Shape
from vaekit.nn.layers import (
    CONVOLUTIONS,
    Activation,
    Channels,
    normalization_layer,
    parameters_head,
    residual_stage,
    sides_of,
    strides_to,
)
from vaekit.roles import encoders
from vaekit.schema import Few


@encoders("resnet")
class ResNet(Backbone):
    """Pre-activation residual blocks with GroupNorm, then one linear layer; five to ten times slower than ``cnn``.

    Each stage halves every side, rounding up, and has ``depth`` blocks of two 3×3 convolutions. Since it is normalised
    throughout, it can be trained at any depth; on a CPU, start with ``cnn``. For a grid of latents, halving stops at the size
    of the grid, and a pointwise convolution replaces the linear layer.

    Shapes: ``(B, C, L)``, ``(B, C, H, W)`` or ``(B, C, D, H, W)``, sides of any length, to ``(B, *out_shape)``.

    Args:
        channels: Channels of the stages, starting at the image; each stage halves the size.
        depth: Residual blocks per stage.
        activation: Nonlinearity before every convolution but the first.

    References:
        He et al. (2016), "Identity Mappings in Deep Residual Networks", ECCV, arXiv:1603.05027.
        Wu and He (2018), "Group Normalization", ECCV, arXiv:1803.08494.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        channels: Channels = (32, 64, 128, 128),
        depth: Few = 1,
        activation: Activation = "silu",
    ) -> None:
        super().__init__(in_shape, out_shape)
        size = sides_of(in_shape, f"encoder {self.kind!r}")
        width = channels[0]
        layers: list[nn.Module] = [CONVOLUTIONS[len(size)](in_shape[0], width, 3, padding=1, bias=False)]
        for next_width, stride in zip(channels, strides_to(out_shape[2:], size, len(channels)), strict=True):
            layers += residual_stage(len(size), width, next_width, depth, activation, stride=stride)
            width = next_width
        layers.append(normalization_layer("group", width))
        head = parameters_head(width, size, len(channels), out_shape, activation=activation)
        self.net = nn.Sequential(*layers, head)

    def forward(self, x: Tensor) -> Tensor:
        params: Tensor = self.net(x)
        return params
