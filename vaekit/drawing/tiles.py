"""Examples of any shape as tiles (small pictures of one size). This module alone decides what an example looks like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vaekit.drawing.axes import FAINT, PALETTE, SCALE
from vaekit.drawing.text import PAPER

SMALL = 56
"""Images whose longer side is below this are upscaled to reach it, by an integer factor and without interpolation."""
WIDE = 2
"""The aspect ratio of drawn signals and table rows."""
EDGE = 2
"""Space next to bars and around curves in pixels."""
MISSING = 0.5
"""The grey of a missing pixel."""
LARGE = 168
"""The height of signals and rows in separate pictures, and the side to which images of an animation are upscaled."""


def tiles(examples: Tensor, small: int = SMALL) -> Tensor:
    """Return a tile for each of the examples ``(N, *shape)`` in [0, 1]: bytes ``(N, 1 or 3, height, width)``.

    Values outside [0, 1] are clipped.

    * ``(C, H, W)``: the image, upscaled if small. A fourth channel is opacity over white; other numbers of channels than 1 and
    3 are averaged to grey. Missing pixels are grey.
    * ``(C, D, H, W)``: the middle slice of the volume, as an image.
    * ``(C, L)``: the signal, a curve per channel. Missing values are gaps.
    * ``(F,)``: the table row, a bar per value. Missing values have no bar.

    Args:
        examples: The examples.
        small: Side length below which images are upscaled, and the height of signals and rows; 1 leaves images unchanged and
            makes signals and rows `LARGE`.
    """
    examples = examples.detach().float().clamp(0, 1).cpu()
    if examples.ndim == 2:
        return _bars(examples, _height(small))
    if examples.ndim == 3:
        return _curves(examples, _height(small))
    if examples.ndim == 5:
        examples = examples[:, :, examples.shape[2] // 2]
    return _images(examples, small)


def enlargement(shape: Sequence[int], small: int = SMALL) -> int:
    """Return the factor by which images ``(…, H, W)`` are upscaled."""
    return max(1, math.ceil(small / max(shape[-2:])))


def _height(small: int) -> int:
    """Return the height of signals and table rows."""
    return small if small > 1 else LARGE


def _images(images: Tensor, small: int) -> Tensor:
    images = images.nan_to_num(nan=MISSING)
    if images.shape[1] == 4:
        images = images[:, :3] * images[:, 3:] + (1 - images[:, 3:])
    elif images.shape[1] not in (1, 3):
        images = images.mean(1, keepdim=True)
    factor = enlargement(images.shape, small)
    return (images * 255).round().to(torch.uint8).repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def _bars(rows: Tensor, height: int) -> Tensor:
    """Draw values ``(N, F)`` as bars between two lines, 0 below and 1 above."""
    from PIL import ImageColor

    features = rows.shape[1]
    width = max(WIDE * height - 2 * EDGE, features)
    feature = torch.arange(width) * features // width
    level = (height - torch.arange(height) - 0.5) / height
    filled = level[:, None] <= rows[:, None, feature]
    if width >= 3 * features:
        filled[..., :-1] &= feature[1:] == feature[:-1]  # a gap after each bar
    filled = F.pad(filled, (EDGE, EDGE))
    colours = (PALETTE[0], FAINT, PAPER)
    bar, line, paper = (torch.tensor(ImageColor.getrgb(colour), dtype=torch.uint8).view(3, 1, 1) for colour in colours)
    sheet = paper.repeat(1, height, width + 2 * EDGE)
    sheet[:, [0, -1]] = line
    return torch.where(filled[:, None], bar, sheet)


def _curves(signals: Tensor, height: int) -> Tensor:
    """Draw signals ``(N, C, L)`` as curves between two lines, 0 below and 1 above, with a colour per channel."""
    from PIL import Image, ImageDraw

    channels, length = signals.shape[1:]
    width, edge = WIDE * height, EDGE * SCALE
    right, lower = width * SCALE - 1, height * SCALE - 1
    x = (edge + torch.arange(length) * ((right - 2 * edge) / max(length - 1, 1))).tolist()
    y = edge + (1 - signals) * (lower - 2 * edge)
    colours = [PALETTE[channel % len(PALETTE)] for channel in range(channels)]
    drawn = []
    for signal in y.tolist():
        sheet = Image.new("RGB", (right + 1, lower + 1), PAPER)
        draw = ImageDraw.Draw(sheet)
        for at in (0, lower):
            draw.line([(0, at), (right, at)], fill=FAINT, width=SCALE)
        for heights, colour in zip(signal, colours, strict=True):
            for piece in _pieces(x, heights):
                if len(piece) == 1:
                    draw.ellipse([value + sign * SCALE for sign in (-1, 1) for value in piece[0]], fill=colour)
                draw.line(piece, fill=colour, width=SCALE, joint="curve")
        drawn.append(np.asarray(sheet.resize((width, height), Image.Resampling.LANCZOS)))
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2)


def _pieces(x: Sequence[float], y: Sequence[float]) -> list[list[tuple[float, float]]]:
    """Return the points of a curve, split at missing ones."""
    points = zip(x, y, strict=True)
    groups = groupby(points, key=lambda point: math.isnan(point[1]))
    return [list(piece) for is_missing, piece in groups if not is_missing]
