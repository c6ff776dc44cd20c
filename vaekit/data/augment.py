"""Batched augmentation: each image gets its own random draw and is resampled once.

(torchvision's transforms draw once per call, hence once per batch.)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from vaekit.data.specs import AugmentSpec

NUM_DRAWS = 13
"""Uniform numbers per image; the same for all settings, so that enabling an option does not change the draws of others."""


def augment(x: Tensor, spec: AugmentSpec, draws: Tensor) -> Tensor:
    """Augment each image by its own draws: flips, then an affine map, then brightness, contrast and saturation.

    Args:
        x: Images ``(B, C, H, W)``, float.
        spec: The changes and their ranges.
        draws: ``(B, NUM_DRAWS)``, uniform on [0, 1).
    """
    rotate, shear, shift_x, shift_y, zoom, flip_x, flip_y, crop, crop_x, crop_y, *colour = draws.unbind(1)
    if spec.flip in ("horizontal", "both"):
        x = torch.where((flip_x < 0.5).view(-1, 1, 1, 1), x.flip(-1), x)
    if spec.flip in ("vertical", "both"):
        x = torch.where((flip_y < 0.5).view(-1, 1, 1, 1), x.flip(-2), x)
    if spec.moves:
        height, width = x.shape[-2:]
        low, high = math.log(spec.scale[0]), math.log(spec.scale[1])
        inverse = _inverse_map(
            _symmetric(rotate, math.radians(spec.rotate)),
            _symmetric(shear, math.radians(spec.shear)),
            torch.exp(low + (high - low) * zoom),
        )
        window = spec.crop + (1 - spec.crop) * crop
        x_from = (_symmetric(crop_x, 0.5) * (1 - window) - _symmetric(shift_x, spec.translate)) * width
        y_from = (_symmetric(crop_y, 0.5) * (1 - window) - _symmetric(shift_y, spec.translate)) * height
        offset = (inverse @ torch.stack([x_from, y_from], 1).unsqueeze(2)).squeeze(2)
        x = resample(x, inverse * window.view(-1, 1, 1), offset, spec.fill)
    if spec.recolours:
        limits = (spec.brightness, spec.contrast, spec.saturation)
        x = _recolour(x, *(1 + _symmetric(u, limit) for u, limit in zip(colour, limits, strict=True)))
    return x


def _symmetric(u: Tensor, limit: float) -> Tensor:
    """Map [0, 1) to [-limit, limit)."""
    return (2 * u - 1) * limit


def _inverse_map(angle: Tensor, shear: Tensor, zoom: Tensor) -> Tensor:
    """Return the inverse of scaling, shearing and rotating anticlockwise, ``(B, 2, 2)``, for (x right, y down) in pixels."""
    cos, sin = torch.cos(angle), torch.sin(angle)
    unturn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    slant = torch.zeros_like(unturn)
    slant[:, 0, 1] = torch.tan(shear)
    return (unturn - slant @ unturn) / zoom.view(-1, 1, 1)


def resample(x: Tensor, matrix: Tensor, offset: Tensor, fill: str = "border") -> Tensor:
    """Return images whose pixel p is the input at ``matrix @ p + offset``, with p in pixels from the centre.

    Args:
        x: Images ``(B, C, H, W)``.
        matrix: ``(B, 2, 2)``, acting on (x right, y down).
        offset: ``(B, 2)``, in pixels.
        fill: Padding outside the input: "border" or "zeros".
    """
    # affine_grid measures each axis in half-sides: a rotation is rigid only if the aspect ratio is compensated for.
    # (The sides remain Python numbers: with a tensor, the host would wait for the GPU.)
    height, width = x.shape[-2:]
    (xx, xy), (yx, yy) = (row.unbind(1) for row in matrix.unbind(1))
    top = torch.stack([xx, xy * (height / width), offset[:, 0] * (2 / width)], 1)
    bottom = torch.stack([yx * (width / height), yy, offset[:, 1] * (2 / height)], 1)
    theta = torch.stack([top, bottom], 1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode=fill, align_corners=False)


def _recolour(x: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Adjust brightness, contrast (around the image's mean luminance) and saturation (around each pixel's); clamp to [0, 1]."""
    per_image = (-1, 1, 1, 1)
    x = x * brightness.view(per_image)
    mean = _luminance(x).mean((1, 2, 3), keepdim=True)
    x = torch.lerp(mean, x, contrast.view(per_image))
    x = torch.lerp(_luminance(x), x, saturation.view(per_image))
    return x.clamp(0, 1)


def _luminance(x: Tensor) -> Tensor:
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    red, green, blue = x.split(1, 1)
    luminance: Tensor = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601, as in PIL and torchvision
    return luminance
