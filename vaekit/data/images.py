"""Image files: found, decoded to bytes of one shape, and kept in memory or streamed."""

from __future__ import annotations

import math
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Literal, Protocol, Self, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vaekit.data.sources import ImageSource, Splits, TensorImages
from vaekit.data.specs import Fit
from vaekit.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from PIL.Image import Image

    Encoded = Path | IO[bytes]
    """A picture as it is stored: a file, or the bytes of a row; errors name it by ``str``."""

    class Files(Protocol):
        """Encoded pictures by number."""

        def __len__(self) -> int: ...
        def __getitem__(self, i: int, /) -> Encoded: ...


T = TypeVar("T")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})

Channels = Literal["rgb", "grey"]


def sides(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """Return the height and width that an option names: a side, or both.

    Raises:
        UsageError: A side is less than 1.
    """
    both = (size, size) if isinstance(size, int) else size
    if both is not None and min(both) < 1:
        raise UsageError("pictures cannot be of that size", given=size, expected="sides of 1 or more pixels")
    return both


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

    def __call__(self, file: Encoded) -> Tensor:
        """Decode a file.

        Raises:
            DataError: It is not an image that can be read.
        """
        from PIL import Image, ImageOps

        mode = "RGB" if self.channels == "rgb" else "L"
        try:
            with Image.open(file) as image:
                if self.size is not None:
                    image.draft(mode, (2 * max(self.size),) * 2)  # a large JPEG is decoded at a fraction of its size
                ImageOps.exif_transpose(image, in_place=True)
                picture = _on_white(image)
                pixels = torch.from_numpy(np.array(picture if picture.mode == mode else picture.convert(mode)))
        except Exception as error:  # decoders of broken files raise almost anything
            raise unreadable(file, error) from error
        pixels = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
        return pixels if self.size is None else bring_to_size(pixels, self.size, self.fit)


def bring_to_size(pixels: Tensor, size: tuple[int, int], fit: Fit) -> Tensor:
    """Resample bytes ``(C, H, W)`` to height and width, by torch's bicubic filter: it takes a fifth of the time of Pillow's."""
    height, width = pixels.shape[1:]
    inner = size
    if fit == "crop":
        scale = min(height / size[0], width / size[1])
        pixels = _middle(pixels, max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    elif fit == "pad":
        scale = min(size[0] / height, size[1] / width)
        inner = max(1, round(height * scale)), max(1, round(width * scale))
    if pixels.shape[1:] != inner:
        pixels = F.interpolate(pixels[None], inner, mode="bicubic", antialias=True)[0]
    if inner == size:
        return pixels
    ground = torch.full((len(pixels), *size), 255, dtype=torch.uint8)
    _middle(ground, *inner).copy_(pixels)
    return ground


def _middle(pixels: Tensor, height: int, width: int) -> Tensor:
    """Return the view of the middle."""
    top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
    return pixels[:, top : top + height, left : left + width]


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
        remedy="remove or replace it; --dataset folder leaves such files out with --dataset.on-bad-image skip",
    )


def image_size(file: Encoded) -> tuple[int, int]:
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
        files: One per image; they are asked for when they are read, so rows of a table need not lie in memory.
        decoder: Turns a file into bytes; its ``size`` is that of all files unless it is set.
        labels: int64, one for each of ``rows``.
        class_names: The name of each label.
        rows: Which of the files, int64; all by default.

    Raises:
        DataError: The decoder has no size, and the files differ in theirs.
    """

    integer, encoded = True, True

    def __init__(
        self,
        files: Files,
        decoder: Decoder,
        labels: Tensor | None = None,
        class_names: tuple[str, ...] | None = None,
        rows: Tensor | None = None,
    ) -> None:
        size = decoder.size or common_size(files)
        self.files, self.decoder, self.labels, self.class_names = files, replace(decoder, size=size), labels, class_names
        self.rows = torch.arange(len(files)) if rows is None else rows
        self.shape = (decoder.num_channels, *size)

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, index: Tensor) -> Tensor:
        pixels = torch.empty((len(index), *self.shape), dtype=torch.uint8)
        for picture, row in zip(pixels, self.rows[index].tolist(), strict=True):
            picture.copy_(self.decoder(self.files[row]))
        return pixels

    def subset(self, index: Tensor) -> Self:
        labels = None if self.labels is None else self.labels[index]
        return type(self)(self.files, self.decoder, labels, self.class_names, self.rows[index])

    def in_memory(self) -> TensorImages:
        """Decode all files, by several threads, into a source in memory."""
        pixels = torch.empty((len(self), *self.shape), dtype=torch.uint8)
        rows = self.rows.tolist()
        for _ in in_threads(lambda i: pixels[i].copy_(self.decoder(self.files[rows[i]])), len(self)):
            pass
        return TensorImages(pixels, self.labels, self.class_names)


def in_threads(function: Callable[[int], T], num: int) -> Iterator[T]:
    """Yield ``function`` of 0, 1, … in order, by as many threads as there are processors; few are under way at a time."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, num, 1024):
            yield from pool.map(function, range(start, min(start + 1024, num)))


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

    def reads(i: int) -> bool:
        try:
            decoder(files[i])
        except DataError:
            return False
        return True

    good: list[Path] = []
    bad: list[Path] = []
    for file, ok in zip(files, in_threads(reads, len(files)), strict=True):
        (good if ok else bad).append(file)
    if bad:
        names = ", ".join(str(file) for file in bad[:3]) + (", …" if len(bad) > 3 else "")
        warnings.warn(f"{len(bad)} of {len(files)} images cannot be read and are left out: {names}", stacklevel=2)
    if not good:
        raise DataError("no image of the folder can be read", given=f"{len(files)} files")
    return good


def common_size(files: Files) -> tuple[int, int]:
    """Return the height and width that all files share.

    Raises:
        DataError: They do not share one; the message names two that differ.
    """
    sizes = in_threads(lambda i: image_size(files[i]), len(files))
    first = next(sizes)
    for i, size in enumerate(sizes, 1):
        if size != first:
            raise DataError(
                "the images differ in size",
                given=f"{files[0]} is {first[1]}×{first[0]}, {files[i]} is {size[1]}×{size[0]} (width × height)",
                expected="one size",
                remedy="bring them to one, as --dataset.size 64",
            )
    return first


def within_memory(splits: Splits, memory_gb: float) -> Splits:
    """Decode the files of all splits into memory where they fit ``memory_gb`` together; else leave them to be streamed."""
    parts = (splits.train, splits.validation, splits.test)
    if math.prod(splits.shape) * sum(len(part) for part in parts) > memory_gb * 1e9:
        return splits
    return Splits(*(part.in_memory() if isinstance(part, FileImages) else part for part in parts))
