"""The decoder ``resnet``."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from vaekit.interfaces import Backbone, Shape
from vaekit.nn.layers import (
    CONVOLUTIONS,
    LINEAR_MODES,
    Activation,
    Channels,
    activation_layer,
    fully_connected,
    normalization_layer,
    residual_stage,
    sides_of,
    upsampled_sizes,
)
from vaekit.roles import decoders
from vaekit.schema import Few


@decoders("resnet")
class ResNet(Backbone):
    """One linear layer, then pre-activation residual blocks with GroupNorm; five to ten times slower than ``cnn``.

    Each stage has ``depth`` blocks of two convolutions with kernels of 3 and upsamples to an explicit size, met exactly. Thanks
    to normalisation throughout, it trains at any depth, which is its purpose; on a CPU, start with ``cnn``.

    Shapes: ``(B, *in_shape)`` to ``(B, C, L)``, ``(B, C, H, W)`` or ``(B, C, D, H, W)``, sides of any length; outputs are
    unbounded.

    Args:
        channels: Channels of the stages, from the latent vector to the image; each stage doubles the size.
        depth: Residual blocks per stage.
        activation: Nonlinearity before every convolution.
        upsampling: How feature maps are enlarged: nearest is faster; bilinear, which is linear along every side, is smoother.

    References:
        He et al. (2016), "Identity Mappings in Deep Residual Networks", ECCV, arXiv:1603.05027.
        Wu and He (2018), "Group Normalization", ECCV, arXiv:1803.08494.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        channels: Channels = (128, 128, 64, 32),
        depth: Few = 1,
        activation: Activation = "silu",
        upsampling: Literal["nearest", "bilinear"] = "nearest",
    ) -> None:
        super().__init__(in_shape, out_shape)
        size = sides_of(out_shape, f"decoder {self.kind!r}")
        num_sides, mode = len(size), "nearest" if upsampling == "nearest" else LINEAR_MODES[len(size)]
        sizes = upsampled_sizes(in_shape, size, len(channels))
        layers: list[nn.Module]
        if in_shape[1:] != sizes[0]:
            layers = [fully_connected(in_shape, (), (channels[0], *sizes[0]), activation)]
        else:
            layers = [CONVOLUTIONS[num_sides](in_shape[0], channels[0], 1)]
        layers += residual_stage(num_sides, channels[0], channels[0], depth, activation)
        for (width, next_width), (smaller, larger) in zip(pairwise(channels), pairwise(sizes[:-1]), strict=True):
            layers.append(nn.Identity() if smaller == larger else nn.Upsample(larger, mode=mode))
            layers += residual_stage(num_sides, width, next_width, depth, activation)
        # Normalisation and activation work channel by channel: before the last upsampling of an image they cost a quarter.
        layers += [normalization_layer("group", channels[-1]), activation_layer(activation)]
        layers += [nn.Upsample(sizes[-1], mode=mode), CONVOLUTIONS[num_sides](channels[-1], out_shape[0], 3, padding=1)]
        self.net = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        params: Tensor = self.net(z)
        return params
