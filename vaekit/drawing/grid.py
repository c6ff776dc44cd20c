"""Grids of examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vaekit.drawing.text import TEXT, text_size, text_width, write
from vaekit.drawing.tiles import SMALL, tiles

if TYPE_CHECKING:
    from PIL import Image

MARGIN = 2
"""Space between images in pixels, after upscaling."""


def grid(images: Tensor, *, columns: int | None = None, margin: int = MARGIN, small: int = SMALL) -> Image.Image:
    """Arrange examples ``(N, *shape)`` in [0, 1] in rows on white.

    Args:
        images: The examples, drawn by `vaekit.drawing.tiles.tiles`.
        columns: Examples per row; default: a square grid.
        margin: Space between examples in pixels.
        small: Side length below which images are upscaled; see `tiles`.
    """
    return _arranged(tiles(images, small), columns, margin)


def _arranged(pixels: Tensor, columns: int | None = None, margin: int = MARGIN) -> Image.Image:
    """Arrange tiles in rows on white."""
    from PIL import Image

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
    """Return each of the examples ``(N, *shape)`` as a separate picture; images with a side below ``small`` are upscaled."""
    return [_arranged(tile[None], margin=0) for tile in tiles(images, small)]


def labelled(
    images: Tensor, *, columns: int, rows: Sequence[str] = (), heads: Sequence[str] = (), title: str = ""
) -> Image.Image:
    """Arrange examples like `grid`, with a label before each row and above each column. Text scales with the picture.

    Args:
        images: ``(rows * columns, *shape)`` in [0, 1].
        columns: Examples per row.
        rows: Labels of the rows.
        heads: Labels of the columns, as large as fits; labels too wide even at `TEXT` pixels are omitted.
        title: Title line at the top.
    """
    from PIL import Image, ImageDraw

    drawn = tiles(images)
    sheet_of_tiles = _arranged(drawn, columns)
    tall, wide = (side + MARGIN for side in drawn.shape[2:])
    size = text_size(sheet_of_tiles.width)
    head = max(TEXT, min([size, *(size * wide // max(1, text_width(label, size)) for label in heads)]))
    left = 16 + max(text_width(label, size) for label in rows) if rows else 6
    top = 6 + (size + 10 if title else 0) + (head + 6 if heads else 0)
    width = left + max(sheet_of_tiles.width, text_width(title, size + 1)) + 6
    sheet = Image.new(sheet_of_tiles.mode, (width, top + sheet_of_tiles.height + 6), "white")
    sheet.paste(sheet_of_tiles, (left, top))
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
    """Arrange examples in rows, each with a caption above it. Text scales with the picture."""
    from PIL import Image, ImageDraw

    singles = single_images(images)
    size = text_size(columns * singles[0].width)
    width = max(singles[0].width, *(text_width(caption, size) for caption in captions)) + 8
    height = singles[0].height + size + 10
    top = size + 12 if title else 0
    sheet = Image.new("RGB", (columns * width + 4, top + math.ceil(len(singles) / columns) * height + 4), "white")
    draw = ImageDraw.Draw(sheet)
    if title:
        write(draw, (sheet.width / 2, 6), title, anchor="mt", size=size + 1)
    for i, (tile, caption) in enumerate(zip(singles, captions, strict=True)):
        left, upper = 2 + i % columns * width, top + i // columns * height
        sheet.paste(tile, (left + (width - tile.width) // 2, upper + size + 8))
        write(draw, (left + width / 2, upper + size + 4), caption, anchor="ms", size=size)
    return sheet


def pairs(originals: Tensor, reconstructions: Tensor, *, columns: int = 8) -> Image.Image:
    """Arrange originals above their reconstructions, at most ``columns`` per row, with space between rows."""
    from PIL import Image

    halves = zip(originals.split(columns), reconstructions.split(columns), strict=True)
    rows = [grid(torch.cat(half), columns=len(half[0])) for half in halves]
    step = rows[0].height + max(6 * MARGIN, rows[0].height // 12)
    sheet = Image.new(rows[0].mode, (rows[0].width, (len(rows) - 1) * step + rows[0].height), "white")
    for i, row in enumerate(rows):
        sheet.paste(row, (0, i * step))
    return sheet


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Put pictures of any size side by side on white, from left to right."""
    from PIL import Image

    size = sum(picture.width for picture in pictures), max(picture.height for picture in pictures)
    sheet = Image.new(pictures[0].mode, size, "white")
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width
    return sheet
