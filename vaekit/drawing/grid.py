"""Grids of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vaekit.drawing.axes import TEXT, text_size, text_width, write

if TYPE_CHECKING:
    from PIL import Image

MARGIN = 2
"""Space between images in pixels, after enlargement."""
SMALL = 56
"""Images whose longer side is below this are enlarged to reach it, by an integer factor and without interpolation."""
LARGE = 168
"""Side to which the frames of an animation of single images are enlarged."""


def enlargement(shape: Sequence[int], small: int = SMALL) -> int:
    """Return the factor by which images ``(…, H, W)`` are enlarged."""
    return max(1, math.ceil(small / max(shape[-2:])))


def to_bytes(images: Tensor, small: int = SMALL) -> Tensor:
    """Return images ``(N, C, H, W)`` as enlarged bytes of one or three channels.

    Values outside [0, 1] are clipped, a fourth channel is opacity over white, and other numbers of channels are averaged to grey.
    """
    images = images.detach().float().clamp(0, 1)
    if images.shape[1] == 4:
        images = images[:, :3] * images[:, 3:] + (1 - images[:, 3:])
    elif images.shape[1] not in (1, 3):
        images = images.mean(1, keepdim=True)
    factor = enlargement(images.shape, small)
    pixels = (images * 255).round().to(torch.uint8).cpu()
    return pixels.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def grid(images: Tensor, *, columns: int | None = None, margin: int = MARGIN, small: int = SMALL) -> Image.Image:
    """Arrange images ``(N, C, H, W)`` in [0, 1] row by row on white.

    Args:
        images: The images, as for `to_bytes`.
        columns: Images per row; default: as for a square grid.
        margin: Space between images in pixels.
        small: Side below which images are enlarged.
    """
    from PIL import Image

    pixels = to_bytes(images, small)
    num, channels, height, width = pixels.shape
    columns = columns or math.ceil(math.sqrt(num))
    tall, wide = height + margin, width + margin
    sheet = torch.full((channels, math.ceil(num / columns) * tall + margin, columns * wide + margin), 255, dtype=torch.uint8)
    for i, image in enumerate(pixels):
        top, left = margin + i // columns * tall, margin + i % columns * wide
        sheet[:, top : top + height, left : left + width] = image
    if channels == 1:
        return Image.fromarray(sheet[0].numpy())
    return Image.fromarray(sheet.permute(1, 2, 0).contiguous().numpy())


def single_images(images: Tensor, *, small: int = SMALL) -> list[Image.Image]:
    """Return each of the images ``(N, C, H, W)`` as a separate picture; images with a side below ``small`` are enlarged."""
    return [grid(image[None], margin=0, small=small) for image in images]


def labelled(
    images: Tensor, *, columns: int, rows: Sequence[str] = (), heads: Sequence[str] = (), title: str = ""
) -> Image.Image:
    """Arrange images as `grid` does, with a label before each row and above each column. Text grows with the picture.

    Args:
        images: ``(rows * columns, C, H, W)`` in [0, 1].
        columns: Images per row.
        rows: Labels of the rows.
        heads: Labels of the columns, as large as fits; those that are too wide for a column even at `TEXT` pixels are omitted.
        title: A line at the top.
    """
    from PIL import Image, ImageDraw

    tiles = grid(images, columns=columns)
    factor = enlargement(images.shape)
    tall, wide = images.shape[2] * factor + MARGIN, images.shape[3] * factor + MARGIN
    size = text_size(tiles.width)
    head = max(TEXT, min([size, *(size * wide // max(1, text_width(label, size)) for label in heads)]))
    left = 16 + max(text_width(label, size) for label in rows) if rows else 6
    top = 6 + (size + 10 if title else 0) + (head + 6 if heads else 0)
    width = left + max(tiles.width, text_width(title, size + 1)) + 6
    sheet = Image.new(tiles.mode, (width, top + tiles.height + 6), "white")
    sheet.paste(tiles, (left, top))
    draw = ImageDraw.Draw(sheet)
    if title:
        write(draw, (left + MARGIN, 6), title, anchor="lt", size=size + 1)
    for i, label in enumerate(heads):
        if text_width(label, head) <= wide:
            write(draw, (left + MARGIN + (i + 0.5) * wide, top - 4), label, anchor="ms", size=head)
    for i, label in enumerate(rows):
        write(draw, (left - 6, top + MARGIN + (i + 0.5) * tall), label, anchor="rm", size=size)
    return sheet


def captioned(images: Tensor, captions: Sequence[str], *, columns: int, title: str = "") -> Image.Image:
    """Arrange images in rows, each with a line of text above it. Text grows with the picture."""
    from PIL import Image, ImageDraw

    tiles = single_images(images)
    size = text_size(columns * tiles[0].width)
    width = max(tiles[0].width, *(text_width(caption, size) for caption in captions)) + 8
    height = tiles[0].height + size + 10
    top = size + 12 if title else 0
    sheet = Image.new("RGB", (columns * width + 4, top + math.ceil(len(tiles) / columns) * height + 4), "white")
    draw = ImageDraw.Draw(sheet)
    if title:
        write(draw, (sheet.width / 2, 6), title, anchor="mt", size=size + 1)
    for i, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        left, upper = 2 + i % columns * width, top + i // columns * height
        sheet.paste(tile, (left + (width - tile.width) // 2, upper + size + 8))
        write(draw, (left + width / 2, upper + size + 4), caption, anchor="ms", size=size)
    return sheet


def pairs(originals: Tensor, reconstructions: Tensor, *, columns: int = 8) -> Image.Image:
    """Arrange originals with their reconstructions directly below them, at most ``columns`` per row, with space between rows."""
    from PIL import Image

    halves = zip(originals.split(columns), reconstructions.split(columns), strict=True)
    rows = [grid(torch.cat(half), columns=len(half[0])) for half in halves]
    step = rows[0].height + max(6 * MARGIN, rows[0].height // 12)
    sheet = Image.new(rows[0].mode, (rows[0].width, (len(rows) - 1) * step + rows[0].height), "white")
    for i, row in enumerate(rows):
        sheet.paste(row, (0, i * step))
    return sheet
