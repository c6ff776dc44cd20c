"""Reading image files given by the user for a model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from vaekit.data.folders import find_images, warn_of_frames
from vaekit.data.images import ImageReader, image_size
from vaekit.data.pixels import Range
from vaekit.data.specs import Fit
from vaekit.errors import DataError
from vaekit.interfaces import Shape


def read_images(paths: Sequence[Path], shape: Shape, *, fit: Fit | None = None, limits: Range | None = None) -> Tensor:
    """Read image files as ``(N, C, H, W)`` in [0, 1].

    Args:
        paths: Files, or folders of files.
        shape: ``(C, H, W)`` of the model's images. Grey files are converted to colour if needed, colour files to grey with a
            warning.
        fit: How to fit images of other sizes; default: an error.
        limits: The values of black and white; default: the full range of 8 or 16 bits.

    Raises:
        DataError: A file is missing, unreadable, or of another size.
    """
    channels, *size = shape
    if channels not in (1, 3) or len(shape) != 3:
        raise DataError(
            "image files need a model of images with 1 or 3 channels",
            given=f"data of shape {shape}",
            remedy="give test examples by index, such as 0 1 2",
        )
    files = [file for path in paths for file in (find_images(path) if path.is_dir() else [path])]
    if not files:
        raise DataError("no images given", expected="files, or folders of files")
    for file in files:
        if not file.is_file():
            raise DataError(
                "the image does not exist",
                given=file,
                expected="image files, folders of them, or indices of test images, after the run folder, if any",
            )
        given = image_size(file)
        if fit is None and list(given) != size:
            raise DataError(
                f"{file} does not have the size of the model's images",
                given=f"{given[1]}×{given[0]} (width × height)",
                expected=f"{size[1]}×{size[0]}",
                remedy="resize it, or pass --fit crop, pad or stretch",
            )
        if channels == 1 and is_coloured(file):
            warnings.warn(f"{file} is in colour but the model's images are grey: converting it to grey", stacklevel=2)
    warn_of_frames(files)
    decode = ImageReader((size[0], size[1]), "grey" if channels == 1 else "rgb", fit or "stretch", limits)
    return torch.stack([decode(file) for file in files]).float() / 255


def is_coloured(file: Path) -> bool:
    """Whether an image has a pixel that is not grey."""
    from PIL import Image, ImageChops

    with Image.open(file) as image:
        if image.mode in {"1", "L", "LA", "I", "F"} or image.mode.startswith("I;16"):
            return False
        red, green, blue = image.convert("RGB").split()
        return any(ImageChops.difference(red, other).getextrema()[1] for other in (green, blue))
