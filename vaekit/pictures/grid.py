"""Grids of images, as people look at them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vaekit.files import write_atomically

if TYPE_CHECKING:
    from PIL import Image

MARGIN = 2
"""Pixels between images, after enlargement."""
SMALL = 56
"""Images with a longer side below this are enlarged, by a whole factor and without interpolation, to reach it."""


def grid(images: Tensor, *, columns: int | None = None) -> Image.Image:
    """Arrange images ``(N, C, H, W)`` in [0, 1] in rows, left to right, on white; one, three or four channels.

    Args:
        images: The images; values outside [0, 1] are clipped.
        columns: Images in a row; a square grid unless given.
    """
    from PIL import Image

    num, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(num))
    rows = math.ceil(num / columns)
    factor = max(1, math.ceil(SMALL / max(height, width)))
    pixels = (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    pixels = pixels.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    tall, wide = height * factor + MARGIN, width * factor + MARGIN
    sheet = torch.full((channels, rows * tall + MARGIN, columns * wide + MARGIN), 255, dtype=torch.uint8)
    for i, image in enumerate(pixels):
        top, left = MARGIN + i // columns * tall, MARGIN + i % columns * wide
        sheet[:, top : top + image.shape[1], left : left + image.shape[2]] = image
    if channels == 1:
        return Image.fromarray(sheet[0].numpy())
    return Image.fromarray(sheet.permute(1, 2, 0).contiguous().numpy())


def pairs(originals: Tensor, reconstructions: Tensor, *, columns: int = 8) -> Image.Image:
    """Arrange originals with their reconstructions below them, row under row."""
    rows = []
    for start in range(0, len(originals), columns):
        blank = originals.new_ones(columns - len(originals[start : start + columns]), *originals.shape[1:])
        rows += [originals[start : start + columns], blank, reconstructions[start : start + columns], blank]
    return grid(torch.cat(rows), columns=columns)


def write_png(image: Image.Image, path: Path) -> None:
    """Write an image as PNG, atomically."""
    write_atomically(path, lambda temporary: image.save(temporary, "PNG"))
