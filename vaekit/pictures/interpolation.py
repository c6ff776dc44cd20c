"""From one image to another, and through all classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vaekit.model.vae import VAE
from vaekit.pictures.drawing import number
from vaekit.pictures.grid import grid, labelled
from vaekit.pictures.latents import PATHS, decode, encode_means

if TYPE_CHECKING:
    from PIL import Image

LARGE = 168
"""Side to which single animated images are enlarged."""


def interpolate(vae: VAE, a: Tensor, b: Tensor, paths: Sequence[str], steps: int) -> dict[str, Tensor]:
    """Decode ``steps`` codes on the way between the posterior means of two images ``(C, H, W)``, along each path."""
    first, last = encode_means(vae, torch.stack([a, b]))
    t = torch.linspace(0, 1, steps, device=first.device)
    return {path: decode(vae, PATHS[path](first, last, t)) for path in paths}


def interpolation_picture(a: Tensor, b: Tensor, decoded: dict[str, Tensor]) -> Image.Image:
    """Show the way as a row for each path, between the images themselves."""
    steps = len(next(iter(decoded.values())))
    rows = torch.cat([torch.cat([a[None], images.cpu(), b[None]]) for images in decoded.values()])
    heads = ["A", *(number(i / (steps - 1)) for i in range(steps)), "B"]
    return labelled(rows, columns=steps + 2, rows=list(decoded), heads=heads)


def frames(images: Tensor) -> list[Image.Image]:
    """Return images ``(N, C, H, W)`` as frames, small ones enlarged."""
    return [grid(image[None], columns=1, margin=0, small=LARGE) for image in images]


def examples_of_classes(codes: Tensor, labels: Tensor) -> dict[int, int]:
    """Return for each label the position of its most central image: the nearest to the mean of the label's codes."""
    found = {}
    for label in labels.unique().tolist():
        members = (labels == label).nonzero()[:, 0]
        distances = (codes[members] - codes[members].mean(0)).square().sum(-1)
        found[label] = int(members[distances.argmin()])
    return found


def morph(vae: VAE, stations: Tensor, path: str, steps: int) -> Tensor:
    """Decode a round trip through codes ``(K, D)``, ``steps`` images from each to the next, and back to the first."""
    t = torch.arange(steps, device=stations.device) / steps
    legs = [PATHS[path](a, b, t) for a, b in zip(stations, stations.roll(-1, 0), strict=True)]
    return decode(vae, torch.cat(legs))
