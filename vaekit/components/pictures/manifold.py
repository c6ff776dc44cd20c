"""The picture ``manifold``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vaekit.drawing.options import ClassName, Dims
from vaekit.drawing.picture import Picture
from vaekit.drawing.subject import Subject
from vaekit.roles import pictures
from vaekit.schema import Few

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from vaekit.drawing.latents import Plane, Spread

MANY, TINY = 8, 28
"""With more than ``MANY`` images per axis, only images with a side below ``TINY`` pixels are enlarged."""


@pictures("manifold")
class Manifold(Picture):
    """Decode a plane of the latent space on a grid of equal steps in probability.

    Args:
        dims: Indices of one or two latents, from 0; none selects all latents of a model with one or two, otherwise the first
            two principal axes of the codes.
        side: Number of images along each axis.
        label: Class to draw with a conditional model; none draws the first.
    """

    def __init__(self, subject: Subject, *, dims: Dims | None = None, side: Few = 20, label: ClassName | None = None) -> None:
        super().__init__(subject)
        self.dims, self.side, self.label = dims, side, label

    def still(self) -> Image:
        plane, spread = self.subject.plane(self.dims)
        values = quantile_grid(self.side, spread)
        return manifold_picture(self._decode(plane, values), plane, values)

    def _decode(self, plane: Plane, values: Tensor) -> Tensor:
        """Decode the plane at values ``(side, k)`` along its axes: ``(rows * side, C, H, W)``, the last value in the top row."""
        import torch

        from vaekit.drawing.latents import decode_nearest

        vae, c, along = self.subject.vae, self.subject.condition_of(self.label), values[:, 0]
        if len(plane.axes) == 1:
            return decode_nearest(vae, plane.center + along[:, None] * plane.axes[0], c)
        down, along = torch.meshgrid(values[:, 1].flip(0), along, indexing="ij")
        return decode_nearest(vae, plane.center + torch.stack([along, down], -1).flatten(0, 1) @ plane.axes, c)


def quantile_grid(side: int, spread: Spread) -> Tensor:
    """Return values ``(side, k)`` at equal steps in probability: ``mean + std Phi^-1((i + 1/2) / side)``.

    References:
        Kingma and Welling (2014), "Auto-Encoding Variational Bayes", ICLR, arXiv:1312.6114, appendix A.
    """
    import torch

    u = torch.special.ndtri((torch.arange(side, dtype=torch.float64) + 0.5) / side).to(spread.mean)
    values: Tensor = spread.mean + u[:, None] * spread.std
    return values


def manifold_picture(images: Tensor, plane: Plane, values: Tensor) -> Image:
    """Show a decoded plane with the values along its axes."""
    from PIL import Image, ImageDraw

    from vaekit.drawing.grid import grid
    from vaekit.drawing.text import text_size, text_width, write
    from vaekit.drawing.tiles import SMALL

    side = len(values)
    tiles = grid(images, columns=side, margin=0, small=TINY if side > MANY else SMALL)
    wide, tall = tiles.width / side, tiles.height / max(1, len(images) // side)
    upright = len(plane.axes) == 2
    size = text_size(tiles.width)
    widest = max(text_width(f"{v:.2f}", size) for v in values.flatten().tolist())
    edge = max(size, math.ceil((widest - wide) / 2))
    left = edge + (widest if upright else 0)
    caption = caption_lines(plane, tiles.width, size)
    width = left + max(tiles.width, *(text_width(line, size) for line in caption)) + edge
    below = edge + tiles.height + 4
    sheet = Image.new(tiles.mode, (width, below + (len(caption) + 1) * (size + 4) + 6), "white")
    sheet.paste(tiles, (left, edge))
    draw = ImageDraw.Draw(sheet)
    for i in labelled_steps(side, (widest + size / 2) / wide):
        write(draw, (left + (i + 0.5) * wide, below), f"{values[i, 0]:.2f}", anchor="mt", size=size)
    for i in labelled_steps(side, 1.3 * size / tall) if upright else ():
        write(draw, (left - 6, edge + (side - i - 0.5) * tall), f"{values[i, 1]:.2f}", anchor="rm", size=size)
    for i, line in enumerate(caption):
        write(draw, (left, below + (i + 1) * (size + 4)), line, anchor="lt", size=size)
    return sheet


def labelled_steps(side: int, room: float) -> list[int]:
    """Return which of ``side`` steps to label: the ends, the middle and the quarters, if they are ``room`` steps apart."""
    quarter = round((side - 1) / 4)
    kept: list[int] = []
    for i in (0, side - 1, *([side // 2] if side % 2 else []), quarter, side - 1 - quarter):
        if all(abs(i - other) >= room for other in kept):
            kept.append(i)
    return kept


def caption_lines(plane: Plane, width: int, size: int) -> list[str]:
    """Return the names of the axes, on one line if it fits into ``width`` pixels, otherwise on a line each."""
    from vaekit.drawing.text import text_width

    names = [f"{name} {way}" for name, way in zip(plane.names, ("to the right", "upwards"), strict=False)]
    line = ", ".join(names)
    return [line] if text_width(line, size) <= width else names
