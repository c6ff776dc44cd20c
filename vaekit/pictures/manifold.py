"""A plane of the latent space, decoded at the prior's quantiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vaekit.pictures.drawing import TEXT, text_width, write
from vaekit.pictures.grid import grid
from vaekit.pictures.latents import Plane, Spread, decode
from vaekit.vae import VAE

if TYPE_CHECKING:
    from PIL import Image

SMALL = 28
"""Side below which images are enlarged here: a plane has many."""


def quantile_grid(side: int, spread: Spread) -> Tensor:
    """Return values ``(side, k)`` at equal steps of probability: ``mean + std Phi^-1((i + 1/2) / side)``.

    Reference:
        Kingma & Welling, Auto-Encoding Variational Bayes, 2014, appendix A.
    """
    u = torch.special.ndtri((torch.arange(side, dtype=torch.float64) + 0.5) / side).to(spread.mean)
    values: Tensor = spread.mean + u[:, None] * spread.std
    return values


def manifold(vae: VAE, plane: Plane, values: Tensor) -> Tensor:
    """Decode the plane at ``values`` ``(side, k)`` of its one or two axes: ``(rows * side, C, H, W)``, top row last value."""
    first = values[:, 0]
    if len(plane.axes) == 1:
        return decode(vae, plane.center + first[:, None] * plane.axes[0])
    down, along = torch.meshgrid(values[:, 1].flip(0), first, indexing="ij")
    return decode(vae, plane.center + torch.stack([along, down], -1).flatten(0, 1) @ plane.axes)


def manifold_picture(images: Tensor, plane: Plane, values: Tensor) -> Image.Image:
    """Show a decoded plane, with the values of its axes."""
    from PIL import Image, ImageDraw

    side = len(values)
    tiles = grid(images, columns=side, margin=0, small=SMALL)
    wide, tall = tiles.width / side, tiles.height / max(1, len(images) // side)
    upright = len(plane.axes) == 2
    left = 22 + max(text_width(f"{v:.2f}") for v in values[:, 1].tolist()) if upright else 12
    sheet = Image.new(tiles.mode, (left + tiles.width + 16, 12 + tiles.height + 2 * TEXT + 24), "white")
    sheet.paste(tiles, (left, 12))
    draw = ImageDraw.Draw(sheet)
    quarter = round((side - 1) / 4)
    stops = {0, quarter, side - 1 - quarter, side - 1} | ({side // 2} if side % 2 else set())
    for i in stops:
        write(draw, (left + (i + 0.5) * wide, 16 + tiles.height), f"{values[i, 0]:.2f}", anchor="mt")
        if upright:
            write(draw, (left - 6, 12 + (side - i - 0.5) * tall), f"{values[i, 1]:.2f}", anchor="rm")
    names = f"{plane.names[0]} to the right" + (f", {plane.names[1]} upwards" if upright else "")
    write(draw, (left, 20 + TEXT + tiles.height), names, anchor="lt")
    return sheet
