"""Arrays of any common layout and dtype as examples, in memory or memory-mapped."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal, Self, get_args

import numpy as np
import torch

from vaekit.data.pixels import REMEDY, UNIT, Array, Range, to_unit
from vaekit.data.sources import ImageSource, require_complete
from vaekit.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

Layout = Literal["NF", "NL", "NCL", "NLC", "NHW", "NHWC", "NCHW", "NDHW", "NCDHW", "NDHWC"]
"""The order of an array's axes: N examples, F features, C channels, L length, D depth, H height, W width."""

_CHANNELS = (1, 3, 4)


def find_layout(shape: tuple[int, ...], layout: Layout | None = None) -> Layout:
    """Return the order of an array's axes: ``layout`` if given, else the usual layout for the shape.

    Two axes form a table, three form grey images. Of four or five axes, the channel axis is the only candidate of size 1, 3 or
    4.

    Raises:
        UsageError: The shape does not fit ``layout``, or fits several layouts.
        DataError: The array cannot hold examples.
    """
    fits: list[Layout] = [each for each in get_args(Layout) if len(each) == len(shape)]
    if not fits or 0 in shape:
        raise DataError(
            "the array cannot hold examples",
            given=f"shape {shape}",
            expected=f"one of {', '.join(get_args(Layout))}, not empty",
        )
    if layout is not None:
        if layout not in fits:
            raise UsageError("the array does not have that layout", given=f"{layout}, shape {shape}", expected=" or ".join(fits))
        return layout
    if len(shape) <= 3:
        return "NF" if len(shape) == 2 else "NHW"
    usual = [each for each in fits if "C" in each and shape[each.index("C")] in _CHANNELS] or fits
    if len(usual) > 1:
        remedy = f"choose one, for example --dataset.layout {usual[0]}"
        raise UsageError("the array's layout is ambiguous", given=f"shape {shape}", expected=" or ".join(usual), remedy=remedy)
    return usual[0]


def holds_pixels(layout: Layout) -> bool:
    """Whether integers in a layout are pixels, which have a range, as in images and volumes."""
    return "H" in layout


def to_examples(array: Array, layout: Layout, limits: Range | None = None) -> Tensor:
    """Convert an array to examples, ``(N, F)``, ``(N, C, L)``, ``(N, C, H, W)`` or ``(N, C, D, H, W)``, uint8 or float32.

    NaN is kept and marks a missing value. A fourth image channel is opacity: the picture is composited onto white.

    Args:
        array: The array.
        layout: Order of its axes.
        limits: The range of the values; default: that of their type in images and volumes. Other values are kept as they are.

    Raises:
        DataError: The values cannot be pixels.
    """
    if "C" in layout:
        array = np.moveaxis(array, layout.index("C"), 1)
    elif layout != "NF":
        array = array[:, None]
    if not holds_pixels(layout) and array.dtype.kind in "biu":
        array = array.astype(np.float32)
    examples = torch.from_numpy(np.require(to_unit(array, limits, missing=True), requirements=("C", "W")))
    return _on_white(examples) if layout in ("NHWC", "NCHW") else examples


def to_labels(values: Array, num: int, name: str) -> tuple[Tensor, tuple[str, ...] | None]:
    """Convert ``num`` integers, booleans or strings to labels; return the labels and, for strings, their names.

    Args:
        values: ``(num,)`` or ``(num, 1)``; strings may be encoded, in UTF-8 or Latin-1.
        num: Number of images.
        name: What the values are, for the error.

    Raises:
        DataError: The values have another type, or their number is not ``num``.
    """
    given, expected = f"{name}: {values.dtype} of {values.shape}", f"{num} integers or names"
    flat = values.reshape(-1) if values.shape == (num, 1) else values
    whole = flat.dtype.kind in "biu" or (flat.dtype.kind == "f" and bool((flat == np.rint(flat)).all()))
    if flat.shape != (num,) or not (whole or flat.dtype.kind in "US"):
        raise DataError("the array cannot hold labels", given=given, expected=expected)
    if whole:
        return torch.from_numpy(flat.astype(np.int64)), None
    names, numbers = np.unique(_decoded(flat) if flat.dtype.kind == "S" else flat, return_inverse=True)
    return torch.from_numpy(numbers.astype(np.int64)), tuple(names.tolist())


def optional_labels(
    load: Callable[[], Array], num: int, name: str, *, explicit: bool, description: str
) -> tuple[Tensor | None, tuple[str, ...] | None]:
    """Return the labels that ``load`` reads; see `to_labels`.

    Args:
        load: A function that reads the values.
        num: Number of images.
        name: What the values are, for the error.
        explicit: Whether the user requested these labels; otherwise, unsuitable values are ignored with a warning.
        description: A description of the values for the warning.

    Raises:
        DataError: The user requested unsuitable values.
    """
    try:
        return to_labels(load(), num, name)
    except DataError as error:
        if explicit:
            raise
        warnings.warn(f"{description} is ignored: {error.message} ({error.given})", stacklevel=3)
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
                "pixels with opacity need values in [0, 1]",
                given=f"{x.min():g} to {x.max():g}",
                remedy=f"{REMEDY}{min(0.0, float(x.min())):g},{x.max():g}",
            )
        return colour * opacity + (1 - opacity)
    opacity = opacity.int()
    return ((colour.int() * opacity + 255 * (255 - opacity) + 127) // 255).to(torch.uint8)


class MappedImages(ImageSource):
    """Examples in a memory-mapped ``.npy`` file: only the gathered ones are read, on the CPU.

    Args:
        file: The file.
        layout: Order of its axes.
        limits: The range of its values; see `to_examples`.
        rows: The indices of the examples, int64; default: all.
        complete: Whether gathering a missing value is an error.
        labels: The labels of these examples, int64; default: none.
        class_names: The name of each label.
    """

    def __init__(
        self,
        file: Path,
        layout: Layout,
        limits: Range | None = None,
        rows: Tensor | None = None,
        *,
        complete: bool = False,
        labels: Tensor | None = None,
        class_names: tuple[str, ...] | None = None,
    ) -> None:
        self.file, self.layout, self.limits, self.is_complete = file, layout, limits, complete
        self.labels, self.class_names = labels, class_names
        mapped = self._open()
        self.rows = torch.arange(len(mapped)) if rows is None else rows
        example = to_examples(mapped[:1], layout, limits)
        self.shape = tuple(example.shape[1:])
        self.integer = example.dtype == torch.uint8

    def _open(self) -> Array:
        # Opened on each access, which takes about 100 µs: pickling an open memory map for a worker would copy the whole file.
        mapped: Array = np.load(self.file, mmap_mode="r", allow_pickle=False)
        return mapped

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, index: Tensor) -> Tensor:
        try:
            numbers = self._open()[self.rows[index].numpy()]
        except (OSError, ValueError, IndexError) as error:
            raise DataError("the file has changed since it was opened", given=f"{self.file}: {error}") from error
        examples = to_examples(numbers, self.layout, self.limits)
        if self.is_complete:
            require_complete(examples, self.file)
        return examples

    def subset(self, index: Tensor) -> Self:
        labels = None if self.labels is None else self.labels[index]
        return self._with(self.rows[index], labels, complete=self.is_complete)

    def _with(self, rows: Tensor, labels: Tensor | None, *, complete: bool) -> Self:
        names = self.class_names
        return type(self)(self.file, self.layout, self.limits, rows, complete=complete, labels=labels, class_names=names)

    @property
    def has_missing(self) -> bool:
        return not (self.integer or self.is_complete)

    def complete(self, name: str) -> Self:
        """Return a source that raises an error when it reads a missing value."""
        del name
        return self._with(self.rows, self.labels, complete=True)

    def value_range(self) -> Range:
        return UNIT if self.limits else super().value_range()
