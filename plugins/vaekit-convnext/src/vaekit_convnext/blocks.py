"""Building blocks of encoder and decoder."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from vaekit.errors import UsageError

Shape = tuple[int, ...]
Channels = Annotated[tuple[Annotated[int, Field(ge=4)], ...], Field(min_length=1)]
Depth = PositiveInt


class ChannelNorm(nn.Module):
    """Layer normalisation over channels at each position of ``(B, C, H, W)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        return y


class Block(nn.Module):
    """``x + γ f(x)``: depthwise 7×7 convolution, normalisation, 1×1 expansion to four times the channels, GELU, 1×1 projection.

    γ is initialised at 0.1 instead of the paper's 1e-6, which is meant for networks of about twenty blocks.

    References:
        Liu et al. (2022), "A ConvNet for the 2020s", CVPR, arXiv:2201.03545, figure 4.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.f = nn.Sequential(
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
            ChannelNorm(channels),
            nn.Conv2d(channels, 4 * channels, 1),
            nn.GELU(),
            nn.Conv2d(4 * channels, channels, 1),
        )
        self.gamma = nn.Parameter(torch.full((channels, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.gamma * self.f(x)
        return y


def stage(channels: int, depth: int) -> list[nn.Module]:
    """Return ``depth`` blocks."""
    return [Block(channels) for _ in range(depth)]


def halved_sizes(image_shape: Shape, num: int) -> list[tuple[int, int]]:
    """Return the size of an image, then its sizes after each of ``num`` halvings, rounding up.

    Raises:
        UsageError: ``image_shape`` is not the shape of an image.
    """
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise UsageError("convnext supports images only", given=image_shape, expected="(channels, height, width)")
    sizes = [(image_shape[1], image_shape[2])]
    for _ in range(num):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes
