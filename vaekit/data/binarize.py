"""Grey values to 0 or 1, as Bernoulli draws whose mean is the grey value."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from vaekit.streams import Streams

_LOWEST = torch.iinfo(torch.int64).min


def draw_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw int16 noise for ``binarize``, uniform over all 65,536 values: 16 bits a pixel, four pixels a draw.

    On a CPU this takes a third of the time of ``torch.rand`` and a tenth of that of ``torch.bernoulli``.
    """
    num = math.prod(shape)
    words = torch.empty(-(-num // 4), dtype=torch.int64, device=generator.device)
    # `random_()` alone leaves the sign bit at 0, which would be one bit of every fourth pixel.
    return words.random_(_LOWEST, None, generator=generator).view(torch.int16)[:num].view(shape)


def draw_fixed_noise(streams: Streams, stream: str, index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Draw noise that belongs to the images at ``index``: a function of (seed, stream, image), whatever batch they are in.

    It is drawn on the CPU, so that every device sees the same binary images. Costs some 10 µs per image.
    """
    noise = torch.empty(len(index), *shape, dtype=torch.int16)
    for row, image in zip(noise, index.tolist(), strict=True):
        row.copy_(draw_noise(shape, streams.generator(stream, image)))
    return noise


def binarize(x: Tensor, noise: Tensor | None) -> Tensor:
    """Return 1 with probability ``x``, else 0, as float32.

    The probability is ``x`` rounded to 1/65,536: exact for black and white, and off by at most 8e-6 for greys.

    Args:
        x: Grey values in [0, 1].
        noise: From ``draw_noise``, of the same shape; None compares with 1/2 instead.
    """
    if noise is None:
        return (x > 0.5).float()
    # Noise n stands for the middle of its cell, u = (n + 32768.5) / 65536; the test is u < x. In one buffer: fresh memory costs
    # as much as the arithmetic.
    level = x * 65536
    level -= 32768.5
    return torch.lt(noise, level, out=level)
