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

    Each stage has ``depth`` blocks of two 3×3 convolutions and upsamples to an explicit size, so any output size is matched
    exactly. Since it is normalised throughout, it can be trained at any depth; on a CPU, start with ``cnn``.

    Shapes: ``(B, *in_shape)`` to ``(B, C, L)``, ``(B, C, H, W)`` or ``(B, C, D, H, W)``, sides of any length; outputs are
    unbounded.

    Args:
        channels: Channels of the stages, from the latent vector to the image; each stage doubles the size.
        depth: Residual blocks per stage.
        activation: Nonlinearity before every convolution.
        upsampling: Upsampling of feature maps: nearest is faster; bilinear (linear along each side) is smoother.

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
        # Normalisation and activation act per channel: before the last upsampling of an image they take a quarter of the time.
        layers += [normalization_layer("group", channels[-1]), activation_layer(activation)]
        layers += [nn.Upsample(sizes[-1], mode=mode), CONVOLUTIONS[num_sides](channels[-1], out_shape[0], 3, padding=1)]
        self.net = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        params: Tensor = self.net(z)
        return params
