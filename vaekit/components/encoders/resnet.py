"""The encoder ``resnet``."""

from __future__ import annotations

from torch import Tensor, nn

from vaekit.interfaces import Backbone, Shape
from vaekit.nn.layers import (
    Activation,
    Channels,
    activation_layer,
    fully_connected,
    halved_sizes,
    normalization_layer,
    require_image_shape,
    residual_stage,
)
from vaekit.roles import encoders
from vaekit.schema import Few


@encoders("resnet")
class ResNet(Backbone):
    """Pre-activation residual blocks with GroupNorm, then one linear layer; five to ten times slower than ``cnn``.

    Each stage halves both sides, rounding up, and has ``depth`` blocks of two 3×3 convolutions. Normalisation throughout lets it
    train at any depth, which is its purpose; on a CPU, start with ``cnn``.

    Shapes: ``(B, C, H, W)``, any height and width, to ``(B, *out_shape)``.

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
        require_image_shape(in_shape, f"encoder {self.kind!r}")
        width = channels[0]
        layers: list[nn.Module] = [nn.Conv2d(in_shape[0], width, 3, padding=1, bias=False)]
        for next_width in channels:
            layers += residual_stage(width, next_width, depth, activation, stride=2)
            width = next_width
        layers += [normalization_layer("group", width), activation_layer(activation)]
        feature_shape = (width, *halved_sizes(in_shape, len(channels))[-1])
        self.net = nn.Sequential(*layers, fully_connected(feature_shape, (), out_shape, activation))

    def forward(self, x: Tensor) -> Tensor:
        params: Tensor = self.net(x)
        return params
