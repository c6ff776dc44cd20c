"""Arrays of any common layout and type as images, in memory or mapped from a file."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import torch

from vaekit.data.pixels import REMEDY, UNIT, Array, Range, to_unit
from vaekit.data.sources import ImageSource
from vaekit.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

Layout = Literal["NHW", "NHWC", "NCHW"]

_CHANNELS = (1, 3, 4)


def find_layout(shape: tuple[int, ...], layout: Layout | None = None) -> Layout:
    """Return the order of an array's axes: ``layout`` if given, else the only order with 1, 3 or 4 channels.

    Raises:
        UsageError: The shape does not fit ``layout``, or fits several layouts.
        DataError: The shape is not that of images.
    """
    fits: list[Layout] = ["NHW"] if len(shape) == 3 else []
    if len(shape) == 4:
        fits += ["NHWC"] if shape[3] in _CHANNELS else []
        fits += ["NCHW"] if shape[1] in _CHANNELS else []
    if layout is not None and layout not in fits:
        raise UsageError(
            "the array does not have that layout", given=f"{layout}, shape {shape}", expected=" or ".join(fits) or None
        )
    if not fits or 0 in shape:
        raise DataError(
            "this is not an array of images", given=f"shape {shape}", expected="(N, H, W), (N, H, W, C) or (N, C, H, W)"
        )
    if layout is None and len(fits) > 1:
        remedy = "choose one, for example --dataset.layout NHWC"
        raise UsageError("the array's layout is ambiguous", given=f"shape {shape}", expected=" or ".join(fits), remedy=remedy)
    return layout or fits[0]


def to_images(array: Array, layout: Layout, limits: Range | None = None) -> Tensor:
    """Convert an array to ``(N, C, H, W)``, uint8 or float32. A fourth channel is opacity: the picture is placed on white.

    Args:
        array: The numbers.
        layout: Order of its axes.
        limits: The range of the numbers; default: that of their type. Floats without a range are kept as they are.

    Raises:
        DataError: The numbers cannot be pixels.
    """
    if layout == "NHW":
        array = array[:, None]
    elif layout == "NHWC":
        array = array.transpose(0, 3, 1, 2)
    return _on_white(torch.from_numpy(np.require(to_unit(array, limits), requirements=("C", "W"))))


def to_labels(values: Array, num: int, name: str) -> tuple[Tensor, tuple[str, ...] | None]:
    """Convert ``num`` integers, booleans or strings to labels; return these and, for strings, the names they stand for.

    Args:
        values: ``(num,)`` or ``(num, 1)``; strings may be encoded, in UTF-8 or Latin-1.
        num: Number of images.
        name: What the values are, for the error.

    Raises:
        DataError: The values are of another type, or there are not ``num`` of them.
    """
    given, expected = f"{name}: {values.dtype} of {values.shape}", f"{num} integers or names"
    flat = values.reshape(-1) if values.shape == (num, 1) else values
    whole = flat.dtype.kind in "biu" or (flat.dtype.kind == "f" and bool((flat == np.rint(flat)).all()))
    if flat.shape != (num,) or not (whole or flat.dtype.kind in "US"):
        raise DataError("this array cannot be labels", given=given, expected=expected)
    if whole:
        return torch.from_numpy(flat.astype(np.int64)), None
    names, numbers = np.unique(_decoded(flat) if flat.dtype.kind == "S" else flat, return_inverse=True)
    return torch.from_numpy(numbers.astype(np.int64)), tuple(names.tolist())


def optional_labels(
    load: Callable[[], Array], num: int, name: str, *, stated: bool, told: str
) -> tuple[Tensor | None, tuple[str, ...] | None]:
    """Return the labels that ``load`` reads; see `to_labels`.

    Args:
        load: Reads the values.
        num: Number of images.
        name: What the values are, for the error.
        stated: Whether the user asked for these labels; otherwise, values that cannot be labels are omitted with a warning.
        told: What the values are, for the warning.

    Raises:
        DataError: The user asked for values that cannot be labels.
    """
    try:
        return to_labels(load(), num, name)
    except DataError as error:
        if stated:
            raise
        warnings.warn(f"{told} is left out: {error.message} ({error.given})", stacklevel=3)
        return None, None


def _decoded(values: Array) -> Array:
    try:
        return np.char.decode(values, "utf-8")
    except UnicodeDecodeError:
        return np.char.decode(values, "latin-1")


def _on_white(x: Tensor) -> Tensor:
    if x.shape[1] != 4:
        return x
    colour, opacity = x[:, :3], x[:, 3:]
    if x.dtype != torch.uint8:
        if x.min() < 0 or x.max() > 1:
            raise DataError(
                "pixels with opacity need numbers in [0, 1]",
                given=f"{x.min():g} to {x.max():g}",
                remedy=f"{REMEDY}{min(0.0, float(x.min())):g},{x.max():g}",
            )
        return colour * opacity + (1 - opacity)
    opacity = opacity.int()
    return ((colour.int() * opacity + 255 * (255 - opacity) + 127) // 255).to(torch.uint8)


class MappedImages(ImageSource):
    """Images in a ``.npy`` file that is mapped into memory: only the gathered images are read, on the CPU.

    Args:
        file: The file.
        layout: Order of its axes.
        limits: The range of its numbers; see `to_images`.
        rows: Which images, int64; default: all.
    """

    labels, class_names = None, None

    def __init__(self, file: Path, layout: Layout, limits: Range | None = None, rows: Tensor | None = None) -> None:
        self.file, self.layout, self.limits = file, layout, limits
        mapped = self._open()
        self.rows = torch.arange(len(mapped)) if rows is None else rows
        example = to_images(mapped[:1], layout, limits)
        self.shape = (example.shape[1], example.shape[2], example.shape[3])
        self.integer = example.dtype == torch.uint8

    def _open(self) -> Array:
        # Opened every time, which takes about 100 µs: pickling an open map for a worker would copy the whole file.
        mapped: Array = np.load(self.file, mmap_mode="r", allow_pickle=False)
        return mapped

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, index: Tensor) -> Tensor:
        try:
            numbers = self._open()[self.rows[index].numpy()]
        except (OSError, ValueError, IndexError) as error:
            raise DataError("the file has changed since it was opened", given=f"{self.file}: {error}") from error
        return to_images(numbers, self.layout, self.limits)

    def subset(self, index: Tensor) -> Self:
        return type(self)(self.file, self.layout, self.limits, self.rows[index])

    def value_range(self) -> Range:
        return UNIT if self.limits else super().value_range()
