"""The dataset ``shapes``."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

import vaekit
from vaekit.data import Splits, TensorImages, split_source

NAMES = ("ellipse", "square", "triangle")


@vaekit.datasets("shapes")
class Shapes(vaekit.Dataset):
    """Grey ellipses, squares and triangles of random position, size and angle; generated, no download needed.

    Edges are antialiased. The label is the shape. Validation and test each get a tenth of the images.

    Args:
        num_images: Total number of images in all splits.
        size: Height and width of an image, in pixels.
        seed: Random seed of the dataset.
    """

    default_likelihood: ClassVar[str] = "bce"

    def __init__(
        self,
        *,
        num_images: Annotated[int, Field(ge=30)] = 10_000,
        size: Annotated[int, Field(ge=8, le=512)] = 32,
        seed: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        self.num_images, self.size, self.seed = num_images, size, seed

    def load(self) -> Splits:
        generator = torch.Generator().manual_seed(self.seed)
        labels = torch.randint(len(NAMES), (self.num_images,), generator=generator)
        place = 0.6 * torch.rand(self.num_images, 2, generator=generator) - 0.3
        radius = 0.12 + 0.16 * torch.rand(self.num_images, generator=generator)
        angle = 2 * math.pi * torch.rand(self.num_images, generator=generator)
        factors = zip(*(factor.split(256) for factor in (labels, place, radius, angle)), strict=True)
        images = torch.cat([draw(*chunk, self.size) for chunk in factors])
        return split_source(TensorImages(images, labels, NAMES), validation=0.1, test=0.1)


def draw(labels: Tensor, place: Tensor, radius: Tensor, angle: Tensor, size: int) -> Tensor:
    """Draw shapes as bytes ``(N, 1, size, size)``; images span [-0.5, 0.5] in each direction.

    Args:
        labels: Shapes, ``(N,)``.
        place: Centres as (row, column), ``(N, 2)``.
        radius: Circumradius of each shape, ``(N,)``.
        angle: Angle of each shape in radians, ``(N,)``.
        size: Height and width.
    """
    axis = (torch.arange(size) + 0.5) / size - 0.5
    row, column = axis[:, None] - place[:, 0, None, None], axis - place[:, 1, None, None]
    cos, sin, r = (value[:, None, None] for value in (angle.cos(), angle.sin(), radius))
    u, v = cos * column + sin * row, cos * row - sin * column
    ellipse = torch.sqrt(u.square() + (2 * v).square()) - r
    square = torch.maximum(u.abs(), v.abs()) - r / math.sqrt(2)
    triangle = torch.maximum(v - r / 2, math.sqrt(3) / 2 * u.abs() - v / 2 - r / 2)
    distances = torch.stack([ellipse, square, triangle], 1)
    distance = distances[torch.arange(len(labels)), labels]
    return (255 * (0.5 - size * distance).clamp(0, 1)).round().to(torch.uint8).unsqueeze(1)
