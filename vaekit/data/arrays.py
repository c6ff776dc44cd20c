"""Arrays of any common layout and type as images, in memory or mapped from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch

from vaekit.data.sources import ImageSource
from vaekit.errors import DataError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

Array = np.ndarray[Any, np.dtype[Any]]
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


def to_images(array: Array, layout: Layout) -> Tensor:
    """Convert an array to ``(N, C, H, W)``, uint8 or float32.

    Booleans become black and white, and 16-bit numbers 8-bit. Other integers must be from 0 to 255. The values of floats are
    kept. A fourth channel is opacity: the picture is placed on white.

    Raises:
        DataError: The numbers cannot be pixels.
    """
    if layout == "NHW":
        array = array[:, None]
    elif layout == "NHWC":
        array = array.transpose(0, 3, 1, 2)
    family, dtype = array.dtype.kind, array.dtype
    if family == "b":
        array = array.astype(np.uint8) * np.uint8(255)
    elif dtype == np.uint16:
        array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif family in "iu" and dtype != np.uint8:
        if array.min() < 0 or array.max() > 255:
            given = f"{dtype} from {array.min()} to {array.max()}"
            raise DataError("the integers are not pixels", given=given, expected="0 to 255, or uint16")
        array = array.astype(np.uint8)
    elif family == "f":
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise DataError("the array has numbers that are not finite", expected="pixels without NaN or infinity")
    elif dtype != np.uint8:
        raise DataError("an array of this type cannot hold images", given=dtype, expected="integers, floats or booleans")
    return _on_white(torch.from_numpy(np.require(array, requirements=("C", "W"))))


def to_labels(values: Array, num: int, name: str) -> tuple[Tensor, tuple[str, ...] | None]:
    """Convert ``num`` integers or strings to labels; return these and, for strings, the names they stand for.

    Raises:
        DataError: The values are neither integers nor strings, or there are not ``num`` of them.
    """
    if values.shape != (num,) or values.dtype.kind not in "iuUS":
        given, expected = f"{name}: {values.dtype} of {values.shape}", f"{num} integers or names"
        raise DataError("this array cannot be labels", given=given, expected=expected)
    if values.dtype.kind in "US":
        names, values = np.unique(values.astype(str), return_inverse=True)
        return torch.from_numpy(values.astype(np.int64)), tuple(names.tolist())
    return torch.from_numpy(values.astype(np.int64)), None


def _on_white(x: Tensor) -> Tensor:
    if x.shape[1] != 4:
        return x
    colour, opacity = x[:, :3], x[:, 3:]
    if x.dtype != torch.uint8:
        return colour * opacity + (1 - opacity)
    opacity = opacity.int()
    return ((colour.int() * opacity + 255 * (255 - opacity) + 127) // 255).to(torch.uint8)


class MappedImages(ImageSource):
    """Images in a ``.npy`` file that is mapped into memory: only the gathered images are read, on the CPU.

    Args:
        file: The file.
        layout: Order of its axes.
        labels: int64, one for each of ``rows``.
        class_names: The name of each label.
        rows: Which images, int64; default: all.
    """

    def __init__(
        self,
        file: Path,
        layout: Layout,
        labels: Tensor | None = None,
        class_names: tuple[str, ...] | None = None,
        rows: Tensor | None = None,
    ) -> None:
        self.file, self.layout, self.labels, self.class_names = file, layout, labels, class_names
        mapped = self._open()
        self.rows = torch.arange(len(mapped)) if rows is None else rows
        example = to_images(mapped[:1], layout)
        self.shape = (example.shape[1], example.shape[2], example.shape[3])
        self.integer = example.dtype == torch.uint8

    def _open(self) -> Array:
        # Opened every time, which takes about 100 µs: pickling an open map for a worker would copy the whole file.
        mapped: Array = np.load(self.file, mmap_mode="r", allow_pickle=False)
        return mapped

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, index: Tensor) -> Tensor:
        return to_images(self._open()[self.rows[index].numpy()], self.layout)

    def subset(self, index: Tensor) -> Self:
        labels = None if self.labels is None else self.labels[index]
        return type(self)(self.file, self.layout, labels, self.class_names, self.rows[index])
