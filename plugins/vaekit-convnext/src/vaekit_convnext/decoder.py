"""The decoder ``convnext``."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

import vaekit
from vaekit_convnext.blocks import ChannelNorm, Channels, Depth, Shape, halved_sizes, stage


@vaekit.decoders("convnext")
class ConvNeXtDecoder(vaekit.Backbone):
    """A linear layer, then ConvNeXt stages, each at twice the size of the previous one; the mirror image of the encoder.

    Upsampling is bilinear, which avoids checkerboard artefacts.

    Shapes: ``(B, *in_shape)`` to ``(B, C, H, W)``, any height and width; outputs are unbounded.

    Args:
        channels: Channels of the stages (at least 4), from the latent vector to the image; each stage doubles the size.
        depth: Blocks per stage.

    References:
        Liu et al. (2022), "A ConvNet for the 2020s", CVPR, arXiv:2201.03545.
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, *, channels: Channels = (128, 64, 32), depth: Depth = 2) -> None:
        super().__init__(in_shape, out_shape)
        sizes = halved_sizes(out_shape, len(channels))[::-1]
        features = (channels[0], *sizes[0])
        layers: list[nn.Module] = [
            nn.Flatten(),
            nn.Linear(math.prod(in_shape), math.prod(features)),
            nn.Unflatten(1, features),
            *stage(channels[0], depth),
        ]
        for (before, after), size in zip(pairwise(channels), sizes[1:], strict=False):
            layers += [ChannelNorm(before), _upsampled(size), nn.Conv2d(before, after, 3, padding=1), *stage(after, depth)]
        last = nn.Conv2d(channels[-1], out_shape[0], 3, padding=1)
        self.net = nn.Sequential(*layers, ChannelNorm(channels[-1]), _upsampled(sizes[-1]), last)

    def forward(self, z: Tensor) -> Tensor:
        params: Tensor = self.net(z)
        return params


def _upsampled(size: tuple[int, int]) -> nn.Module:
    return nn.Upsample(size=size, mode="bilinear", align_corners=False)
