"""The encoder ``convnext``."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

import vaekit
from vaekit_convnext.blocks import ChannelNorm, Channels, Depth, Shape, halved_sizes, stage


@vaekit.encoders("convnext")
class ConvNeXtEncoder(vaekit.Backbone):
    """ConvNeXt stages, each at half the size of the previous one, then a linear layer; for images of any size.

    Unlike in the paper, strided 3×3 convolutions separate the stages, which works for images of any size, and there is no
    pooling, since a code has to encode positions.

    Shapes: ``(B, C, H, W)``, any height and width, to ``(B, *out_shape)``.

    Args:
        channels: Channels of the stages (at least 4); each stage halves the size.
        depth: Blocks per stage.

    References:
        Liu et al. (2022), "A ConvNet for the 2020s", CVPR, arXiv:2201.03545.
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, *, channels: Channels = (32, 64, 128), depth: Depth = 2) -> None:
        super().__init__(in_shape, out_shape)
        height, width = halved_sizes(in_shape, len(channels))[-1]
        layers: list[nn.Module] = [nn.Conv2d(in_shape[0], channels[0], 3, stride=2, padding=1), *stage(channels[0], depth)]
        for before, after in pairwise(channels):
            layers += [ChannelNorm(before), nn.Conv2d(before, after, 3, stride=2, padding=1), *stage(after, depth)]
        features = channels[-1] * height * width
        layers += [ChannelNorm(channels[-1]), nn.Flatten(), nn.Linear(features, math.prod(out_shape)), nn.Unflatten(1, out_shape)]
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        params: Tensor = self.net(x)
        return params
