"""Image files: found, decoded to bytes of one shape, and kept in memory or streamed."""

from __future__ import annotations

import math
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch

from vaekit.data.sources import ImageSource, Splits, TensorImages
from vaekit.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL.Image import Image
    from torch import Tensor

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})

Channels = Literal["rgb", "grey"]
Fit = Literal["crop", "pad", "stretch"]
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Decoder:
    """Turns an image file into bytes ``(C, H, W)``.

    Transparent pictures are laid on white; the camera's orientation is applied; 16-bit greys become 8-bit; of an animation the
    first frame is taken.

    Args:
        size: Height and width of the result; None keeps the file's own.
        channels: Colour or grey.
        fit: How other proportions are brought to ``size``: the middle cut out, the whole on a white ground, or distorted.
    """

    size: tuple[int, int] | None
    channels: Channels = "rgb"
    fit: Fit = "crop"

    @property
    def num_channels(self) -> int:
        """Channels of the result."""
        return 3 if self.channels == "rgb" else 1

    def __call__(self, file: Path | IO[bytes], name: object = None) -> Pixels:
        """Decode a file, called ``name`` in errors.

        Raises:
            DataError: It is not an image that can be read.
        """
        from PIL import Image, ImageOps

        try:
            with Image.open(file) as image:
                if self.size is not None:
                    image.draft(None, (2 * max(self.size),) * 2)  # a large JPEG is decoded at a fraction of its size
                picture = _on_white(ImageOps.exif_transpose(image)).convert("RGB" if self.channels == "rgb" else "L")
        except Exception as error:  # decoders of broken files raise almost anything
            raise unreadable(name or file, error) from error
        if self.size is not None and picture.size != self.size[::-1]:
            size, method = self.size[::-1], Image.Resampling.LANCZOS
            if self.fit == "crop":
                picture = ImageOps.fit(picture, size, method)
            elif self.fit == "pad":
                picture = ImageOps.pad(picture, size, method, color="white")
            else:
                picture = picture.resize(size, method)
        pixels = np.array(picture, dtype=np.uint8)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _on_white(image: Image) -> Image:
    """Lay a transparent image on white and bring 16-bit greys to 8 bits."""
    from PIL import Image

    if image.mode.startswith("I"):
        return Image.fromarray(((np.asarray(image).clip(0, 65535).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is not known")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def unreadable(file: object, error: Exception) -> DataError:
    """Return the error for an image file that cannot be decoded."""
    return DataError(
        f"cannot read the image {file}",
        given=f"{type(error).__name__}: {error}",
        expected="a whole PNG, JPEG, WebP, BMP, GIF or TIFF file",
        remedy="remove or replace the file, or pass --dataset.on-bad-image skip",
    )


def image_size(file: Path) -> tuple[int, int]:
    """Read the height and width of an upright image from its header."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5 to 8 lie on their side
            width, height = image.size
    except Exception as error:
        raise unreadable(file, error) from error
    return (width, height) if turned else (height, width)


class FileImages(ImageSource):
    """Image files that are decoded each time they are gathered, on the CPU.

    Args:
        files: One per image.
        decoder: Turns a file into an array; its ``size`` is set.
        labels: int64 ``(N,)``.
        class_names: The name of each label.
    """

    integer = True

    def __init__(
        self,
        files: Sequence[Path],
        decoder: Decoder,
        labels: Tensor | None = None,
        class_names: tuple[str, ...] | None = None,
    ) -> None:
        assert decoder.size is not None
        self.files, self.decoder, self.labels, self.class_names = tuple(files), decoder, labels, class_names
        self.shape = (decoder.num_channels, *decoder.size)

    def __len__(self) -> int:
        return len(self.files)

    def gather(self, index: Tensor) -> Tensor:
        pixels = np.empty((len(index), *self.shape), np.uint8)
        for row, i in enumerate(index.tolist()):
            pixels[row] = self.decoder(self.files[i])
        return torch.from_numpy(pixels)

    def subset(self, index: Tensor) -> Self:
        labels = None if self.labels is None else self.labels[index]
        return type(self)([self.files[i] for i in index.tolist()], self.decoder, labels, self.class_names)

    def in_memory(self) -> TensorImages:
        """Decode all files, by several threads, into a source in memory."""
        pixels = np.empty((len(self), *self.shape), np.uint8)

        def decode(i: int) -> None:
            pixels[i] = self.decoder(self.files[i])

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(decode, range(len(self))):
                pass
        return TensorImages(torch.from_numpy(pixels), self.labels, self.class_names)


def find_images(folder: Path) -> list[Path]:
    """Return the image files below a folder in the order of their relative paths; hidden files and folders are left out.

    Raises:
        DataError: There is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise DataError("there is no such folder of images", given=folder, expected="a folder that exists")
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    found = [folder / name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    if not found:
        raise DataError("there are no images in the folder", given=folder, expected=f"files {' '.join(sorted(SUFFIXES))}")
    return found


def readable_images(files: Sequence[Path], decoder: Decoder) -> list[Path]:
    """Return the files that can be decoded whole, and warn of the others. Reads every file."""

    def reads(file: Path) -> bool:
        try:
            decoder(file)
        except DataError:
            return False
        return True

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        good = [file for file, ok in zip(files, pool.map(reads, files), strict=True) if ok]
    bad = sorted(set(files) - set(good))
    if bad:
        names = ", ".join(str(file) for file in bad[:3]) + (", …" if len(bad) > 3 else "")
        warnings.warn(f"{len(bad)} of {len(files)} images cannot be read and are left out: {names}", stacklevel=2)
    if not good:
        raise DataError("no image of the folder can be read", given=f"{len(files)} files")
    return good


def common_size(files: Sequence[Path]) -> tuple[int, int]:
    """Return the height and width that all files share.

    Raises:
        DataError: They do not share one; the message names two that differ.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sizes = list(pool.map(image_size, files))
    other = next((i for i, size in enumerate(sizes) if size != sizes[0]), None)
    if other is not None:
        given = (f"{files[i]} is {sizes[i][1]}×{sizes[i][0]}" for i in (0, other))
        raise DataError(
            "the images differ in size",
            given=", ".join(given) + " (width × height)",
            expected="one size",
            remedy="bring them to one, as --dataset.size 64",
        )
    return sizes[0]


def within_memory(splits: Splits, memory_gb: float) -> Splits:
    """Decode the files of all splits into memory where they fit ``memory_gb`` together; else leave them to be streamed."""
    parts = (splits.train, splits.validation, splits.test)
    if math.prod(splits.shape) * sum(len(part) for part in parts) > memory_gb * 1e9:
        return splits
    return Splits(*(part.in_memory() if isinstance(part, FileImages) else part for part in parts))
