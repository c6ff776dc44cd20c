"""Pixel values: their range and its mapping to [0, 1]."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from vaekit.errors import DataError, UsageError

Array = np.ndarray[Any, np.dtype[Any]]
Range = tuple[float, float]
"""The values of black and white."""
UNIT: Range = (0.0, 1.0)

RANGES: dict[str, Range] = {"uint8": (0, 255), "uint16": (0, 65535)}
"""The range of types that have one; other integers are treated as bytes, and floats are kept as they are."""
REMEDY = "set the values of black and white, for example --dataset.range "
CHUNK = 1024
"""Number of images scaled at a time."""


def choose_range(sample: Iterable[Array], given: Range | None, name: object) -> Range | None:
    """Return the range of images: as given, or [0, 1] for integers that are only 0 and 1; None for the range of their type.

    Warns if this is a guess: for integers of 0 and 1, and for integers that use at most an eighth of the range of their type.

    Args:
        sample: Some or all of the images.
        given: The range given by the user, if any.
        name: The name of the images, for the warning.

    Raises:
        UsageError: The given range is empty.
    """
    if given is not None:
        low, high = given
        if not low < high:
            raise UsageError("the range of the pixels is empty", given=f"{low:g},{high:g}", expected="LOW,HIGH with LOW < HIGH")
        return given
    arrays = [array for array in sample if array.dtype.kind in "iu" and array.size]
    if not arrays:
        return None
    low, high = min(array.min() for array in arrays), max(array.max() for array in arrays)
    whole = max(RANGES.get(array.dtype.name, RANGES["uint8"])[1] for array in arrays)
    if (low, high) == (0, 1):
        warnings.warn(f"{name}: the pixels are 0 and 1, interpreted as black and white; {REMEDY}0,{whole}", stacklevel=2)
        return (0, 1)
    if low >= 0 and 0 < high <= whole / 8:
        warnings.warn(f"{name}: the pixels reach {high} of {whole}, so the images are dark; {REMEDY}0,{high}", stacklevel=2)
    return None


def to_unit(images: Array, limits: Range | None, *, missing: bool = False) -> Array:
    """Map images ``(N, …)`` to [0, 1]: integers to bytes, where 255 represents 1, and floats to float32.

    Booleans become black and white.

    Args:
        images: Values of any numeric type.
        limits: The range of the values; default: that of their type. Floats without a range are kept as they are.
        missing: Whether to keep NaN; otherwise, it raises an error.

    Raises:
        DataError: The values cannot be pixels, or lie outside the range.
    """
    kind = images.dtype.kind
    if kind not in "biuf":
        raise DataError("values of this type cannot be pixels", given=images.dtype, expected="integers, floats or booleans")
    if kind == "b":
        return images.astype(np.uint8) * np.uint8(255)
    finite = np.isfinite if not missing else lambda part: ~np.isinf(part)
    if kind == "f" and not all(finite(part).all() for part in _chunks(images)):
        expected = f"values other than {'infinity' if missing else 'NaN or infinity'}"
        raise DataError("the data contain values that are not finite", expected=expected)
    if limits is None and kind == "f":
        return images.astype(np.float32, copy=False)
    low, high = limits or RANGES.get(images.dtype.name, RANGES["uint8"])
    lowest, highest = (np.fmin.reduce(images, None), np.fmax.reduce(images, None)) if images.size else (low, high)  # without NaN
    if lowest < low or highest > high:
        raise DataError(
            "the pixels lie outside their range",
            given=f"{images.dtype} from {lowest:g} to {highest:g}",
            expected=f"{low:g} to {high:g}",
            remedy=f"{REMEDY}{lowest:g},{highest:g}",
        )
    if images.dtype == np.uint8 and (low, high) == RANGES["uint8"]:
        return images
    scaled = np.empty(images.shape, np.float32 if kind == "f" else np.uint8)
    for target, part in zip(_chunks(scaled), _chunks(images), strict=True):
        unit = (part.astype(np.float64) - low) / (high - low)
        target[...] = unit if kind == "f" else np.rint(255 * unit)
    return scaled


def _chunks(images: Array) -> list[Array]:
    return [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
