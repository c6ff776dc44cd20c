"""Image files: decoding to bytes of a common shape, in memory or streamed."""

from __future__ import annotations

import hashlib
import math
import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, Protocol, Self, TypeVar, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vaekit.data.pixels import REMEDY, Array, Range, choose_range, to_unit
from vaekit.data.sources import ImageSource, Splits, TensorImages, sample_of
from vaekit.data.specs import Fit
from vaekit.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from PIL.Image import Image

    EncodedImage = Path | IO[bytes]
    """An encoded image: a file, or the bytes in a row of a table; its ``str`` names it in errors."""

    class EncodedImages(Protocol):
        """Encoded images by index."""

        def __len__(self) -> int: ...
        def __getitem__(self, i: int, /) -> EncodedImage: ...


T = TypeVar("T")
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""The Pillow transposition for each EXIF orientation; images with any other value are upright."""
QUARTERS = frozenset({"TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"})
"""The transpositions that swap width and height."""

ORIENTATIONS = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
"""The keywords of texts in a PNG that may hold its orientation."""
SHARE = 16
"""How many calls `in_threads` hands to a thread at once."""
MOST_TRIED = 64
"""Number of image files read to determine the range of pixel values."""

ColourMode = Literal["rgb", "grey"]


def height_and_width(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """Return the height and width given by an option: one number for both, or two.

    Raises:
        UsageError: Height or width is less than 1.
    """
    both = (size, size) if isinstance(size, int) else size
    if both is not None and min(both) < 1:
        raise UsageError("invalid image size", given=size, expected="a height and a width of 1 or more pixels")
    return both


@dataclass(frozen=True)
class ImageReader:
    """Reads image files as bytes ``(C, H, W)``.

    Transparent images are composited onto white, EXIF orientation is applied, and only the first frame of an animation is read.

    Args:
        size: Height and width of the result; None keeps the size of the file.
        channels: Colour or grey.
        fit: How to handle other aspect ratios: crop the centre, pad with white, or stretch.
        limits: The values of black and white; default: the full range of 8 or 16 bits. Required for other types.
    """

    size: tuple[int, int] | None
    channels: ColourMode = "rgb"
    fit: Fit = "crop"
    limits: Range | None = None

    @property
    def num_channels(self) -> int:
        """Channels of the result."""
        return 3 if self.channels == "rgb" else 1

    def __call__(self, file: EncodedImage) -> Tensor:
        """Read a file.

        Raises:
            DataError: The file is not a readable image, or its values lie outside the range.
        """
        numbers = self.numbers(file)
        try:
            unit = to_unit(numbers[None], self.limits)[0]
            if unit.dtype != np.uint8 and self.limits is None:
                raise DataError("the pixels are floats of unknown range", remedy=f"{REMEDY}0,1")
        except DataError as error:
            raise DataError(f"{file}: {error.message}", given=error.given, expected=error.expected, remedy=error.remedy) from None
        pixels = torch.from_numpy(unit if unit.dtype == np.uint8 else np.rint(255 * unit).astype(np.uint8))
        pixels = pixels[None].expand(self.num_channels, -1, -1) if pixels.ndim == 2 else pixels.permute(2, 0, 1)
        return pixels if self.size is None else resize(pixels, self.size, self.fit)

    def numbers(self, file: EncodedImage) -> Array:
        """Return the raw pixel values of a file, upright: ``(H, W)`` if it is grey, else ``(H, W, C)``.

        Raises:
            DataError: The file is not a readable image.
        """
        from PIL import Image

        mode = "RGB" if self.channels == "rgb" else "L"
        try:
            with Image.open(file) as image:
                if self.size is not None:
                    image.draft(mode, (2 * max(self.size),) * 2)  # decode a large JPEG at a fraction of its size
                return _numbers(image, mode)
        except Exception as error:  # Pillow can raise almost anything for a broken file
            raise _unreadable(file, error) from error


def resize(pixels: Tensor, size: tuple[int, int], fit: Fit) -> Tensor:
    """Resize bytes ``(C, H, W)`` with torch's bicubic filter, which takes a fifth of Pillow's time."""
    height, width = pixels.shape[1:]
    inner = size
    if fit == "crop":
        scale = min(height / size[0], width / size[1])
        pixels = _centre(pixels, max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    elif fit == "pad":
        scale = min(size[0] / height, size[1] / width)
        inner = max(1, round(height * scale)), max(1, round(width * scale))
    if pixels.shape[1:] != inner:
        pixels = F.interpolate(pixels[None], inner, mode="bicubic", antialias=True)[0]
    if inner == size:
        return pixels
    padded = torch.full((len(pixels), *size), 255, dtype=torch.uint8)
    _centre(padded, *inner).copy_(pixels)
    return padded


def _centre(pixels: Tensor, height: int, width: int) -> Tensor:
    """Return a view of the central crop."""
    top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
    return pixels[:, top : top + height, left : left + width]


def _orientation_precedes_pixels(image: Image) -> bool:
    """Whether a PNG that was just opened is complete, without an orientation after its pixels, which are skipped."""
    file: IO[bytes] = image.fp  # type: ignore[attr-defined] # of an image that was opened
    place, kind = file.tell(), b""
    try:
        file.seek(8)
        while kind != b"IEND":
            size, kind = struct.unpack(">I4s", file.read(8))
            start = file.tell()
            if start > place and (kind == b"eXIf" or file.read(22).startswith(ORIENTATIONS)):
                return False
            file.seek(start + size + 4)
    except struct.error:
        return False
    finally:
        file.seek(place)
    return True


def _turn(image: Image) -> str | None:
    """Return the transposition that makes an open image upright; None if it already is."""
    from PIL import Image

    early = image.format == "PNG" and _orientation_precedes_pixels(image)
    exif = Image.Image.getexif(image) if early else image.getexif()  # which decodes a PNG first
    turn = TURNS.get(exif.get(0x0112, 1))
    if turn is not None and image.format == "TIFF":  # Pillow transposes these when it reads their pixels
        image.load()
        return None
    return turn


def _numbers(image: Image, mode: str) -> Array:
    """Return the pixel values of an open image, upright: greys of 1, 16 or 32 bits as they are, all else as bytes on white."""
    from PIL import Image

    full = image.format in {"PNG", "PPM"}  # here, mode "I" is 16-bit grey
    if (turn := _turn(image)) is not None:
        image = image.transpose(Image.Transpose[turn])
    if image.mode[0] in "1IF":
        return np.array(image, np.uint16 if image.mode == "I" and full else None)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode == "LAB":  # Pillow has no other conversion from it
        image = image.convert("RGB")
    return np.array(image if image.mode == mode else image.convert(mode))


def _unreadable(file: EncodedImage, error: Exception) -> DataError:
    """Return the error for an image file that cannot be read."""
    return DataError(
        f"cannot read the image {file}",
        given=f"{type(error).__name__}: {error}",
        expected="a complete image file that Pillow can read",
        remedy="remove or replace it; --dataset folder skips such files with --dataset.on-bad-image skip",
    )


def image_size(file: EncodedImage) -> tuple[int, int]:
    """Return the height and width of an image in upright orientation, from its header.

    Raises:
        DataError: The file is not a readable image.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            width, height = image.size
            return (width, height) if _turn(image) in QUARTERS else (height, width)
    except Exception as error:
        raise _unreadable(file, error) from error


class FileImages(ImageSource):
    """Image files that are decoded whenever they are gathered, on the CPU.

    Args:
        files: One per image, accessed on demand, so the rows of a table need not be in memory.
        reader: Reads a file; if its ``size`` is None, all files must have the same size.
        labels: int64, one for each of ``rows``.
        class_names: The name of each label.
        rows: The indices of the files, int64; default: all.

    Raises:
        DataError: ``reader`` has no size, and the files differ in size.
    """

    integer, encoded = True, True

    def __init__(
        self,
        files: EncodedImages,
        reader: ImageReader,
        labels: Tensor | None = None,
        class_names: tuple[str, ...] | None = None,
        rows: Tensor | None = None,
    ) -> None:
        size = reader.size or common_size(files)
        self.files, self.reader, self.labels, self.class_names = files, replace(reader, size=size), labels, class_names
        self.rows = torch.arange(len(files)) if rows is None else rows
        self.shape = (reader.num_channels, *size)

    @property
    def names(self) -> Sequence[str] | None:
        return FileNames(self.files, self.rows) if isinstance(self.files, Sequence) else None

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, index: Tensor) -> Tensor:
        pixels = torch.empty((len(index), *self.shape), dtype=torch.uint8)
        for picture, row in zip(pixels, self.rows[index].tolist(), strict=True):
            picture.copy_(self.reader(self.files[row]))
        return pixels

    def subset(self, index: Tensor) -> Self:
        labels = None if self.labels is None else self.labels[index]
        return type(self)(self.files, self.reader, labels, self.class_names, self.rows[index])

    def digest(self) -> str:
        """Return a digest of the names and sizes of all files and of the contents of an evenly spread sample."""
        digest = hashlib.blake2b(digest_size=16)
        if isinstance(self.files, Sequence):  # for the rows of a table, only the sample is read
            for file in (self.files[row] for row in self.rows.tolist()):
                digest.update(f"{file.parent.name}/{file.name} {file.stat().st_size}\n".encode())
        for place in sample_of(len(self)).tolist():
            encoded = self.files[int(self.rows[place])]
            digest.update(encoded.read_bytes() if isinstance(encoded, Path) else encoded.read())
        return digest.hexdigest()

    def in_memory(self) -> TensorImages:
        """Read all files into memory, in several threads."""
        pixels = torch.empty((len(self), *self.shape), dtype=torch.uint8)
        rows = self.rows.tolist()
        for _ in in_threads(lambda i: pixels[i].copy_(self.reader(self.files[rows[i]])), len(self)):
            pass
        return TensorImages(pixels, self.labels, self.class_names, self.names)


class FileNames(Sequence[str]):
    """The names of files, made on access: a list of a million would take seconds.

    Args:
        files: The files.
        rows: The indices of those to name, int64.
    """

    def __init__(self, files: Sequence[Path], rows: Tensor) -> None:
        self.files, self.rows = files, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, i: int, /) -> str: ...
    @overload
    def __getitem__(self, i: slice, /) -> Sequence[str]: ...
    def __getitem__(self, i: int | slice, /) -> str | Sequence[str]:
        return FileNames(self.files, self.rows[i]) if isinstance(i, slice) else str(self.files[int(self.rows[i])])


def in_threads(function: Callable[[int], T], num: int) -> Iterator[T]:
    """Yield ``function(i)`` for i = 0, 1, … in order, from one thread per processor; at most 1,024 are computed in advance."""

    def several(start: int) -> list[T]:  # handing each over by itself would take longer than a short call
        return [function(i) for i in range(start, min(start + SHARE, num))]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, num, 1024):
            for results in pool.map(several, range(start, min(start + 1024, num), SHARE)):
                yield from results


def range_of(files: EncodedImages, reader: ImageReader, name: object) -> Range | None:
    """Determine the range of pixel values from a sample of image files; see `vaekit.data.pixels.choose_range`."""
    places = [] if reader.limits is not None else sample_of(len(files), MOST_TRIED).tolist()

    def numbers(i: int) -> Array:
        try:
            return reader.numbers(files[places[i]])
        except DataError:  # reading the images reports it
            return np.empty(0)

    return choose_range(list(in_threads(numbers, len(places))), reader.limits, name)


def common_size(files: EncodedImages) -> tuple[int, int]:
    """Return the common height and width of all files.

    Raises:
        DataError: The files differ in size; the message names two of them.
    """
    # In one thread: two, which take turns in Python, took twice as long.
    sizes = (image_size(files[i]) for i in range(len(files)))
    first = next(sizes)
    for i, size in enumerate(sizes, 1):
        if size != first:
            raise DataError(
                "the images differ in size",
                given=f"{files[0]} is {first[1]}×{first[0]}, {files[i]} is {size[1]}×{size[0]} (width × height)",
                expected="one size",
                remedy="resize them all, for example with --dataset.size 64",
            )
    return first


def decode_if_small(splits: Splits, memory_gb: float) -> Splits:
    """Read the files of all splits into memory if together they fit into ``memory_gb``; otherwise, they are streamed."""
    parts = (splits.train, splits.validation, splits.test)
    if math.prod(splits.shape) * sum(len(part) for part in parts) > memory_gb * 1e9:
        return splits
    return Splits(*(part.in_memory() if isinstance(part, FileImages) else part for part in parts))
