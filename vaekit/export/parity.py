"""Checks that an exported file computes the same as the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vaekit.errors import ExportError

if TYPE_CHECKING:
    from vaekit.export.parts import Part

Array = npt.NDArray[Any]
Function = Callable[[Sequence[Array]], Sequence[Array]]
"""Maps a batch of each input to a batch of each output."""

BATCHES = (1, 2, 3, 64)
"""The batch sizes to compare: a decoder that branches on the batch size may export without an error, but be wrong at 1."""
CHUNKS = 8
"""The number of batches of each size."""
TOLERANCE = 1e-5
"""The largest difference allowed in fp32, relative to the largest value of an output if that exceeds 1."""
TOLERANCES = {"fp32": TOLERANCE, "fp16": 5e-3, "int8": None}
"""The tolerance for each precision; int8 is experimental, and its difference is only measured."""


@dataclass(frozen=True)
class Parity:
    """The difference between two functions.

    Args:
        differences: The largest difference at each batch size; NaN if values are not finite.
        tolerance: The largest difference allowed; None if differences are only measured.
        mean: The mean difference at the largest batch size.
    """

    differences: dict[int, float]
    tolerance: float | None
    mean: float

    @property
    def difference(self) -> float:
        """The largest difference."""
        return float(np.max(list(self.differences.values())))

    def __str__(self) -> str:
        listed = ", ".join(f"{value:.1e} at batch {size}" for size, value in self.differences.items())
        return listed if self.tolerance is None else f"{listed} (allowed {self.tolerance:.0e})"

    def require(self, subject: str, remedy: str) -> Parity:
        """Return the parity itself if it is within its tolerance.

        Args:
            subject: The message of the error.
            remedy: The remedy in the error.

        Raises:
            ExportError: It exceeds its tolerance; the message contains the numbers.
        """
        if self.tolerance is not None and not self.difference <= self.tolerance:  # NaN is within no tolerance
            given = ", ".join(f"{value:.2e} at batch {size}" for size, value in self.differences.items())
            raise ExportError(subject, given=given, expected=f"at most {self.tolerance:.0e}", remedy=remedy)
        return self


def compare(
    function: Function,
    reference: Function,
    examples: Sequence[Array],
    *,
    tolerance: float | None,
    units: Sequence[float] = (),
) -> Parity:
    """Compare two functions on batches of several sizes.

    The differences of each output are divided by its largest value, if that exceeds its unit.

    Args:
        function: The function to check, which maps a batch to its outputs.
        reference: The function that it should equal.
        examples: 64 examples of each input.
        tolerance: The largest difference allowed.
        units: The unit of each output; 1 where there is none.
    """
    differences, mean = {}, 0.0
    scales = [max(unit, float(np.abs(output).max())) for output, unit in zip_longest(reference(examples), units, fillvalue=1.0)]
    for size in BATCHES:
        gaps = [
            np.abs(np.subtract(a, b, dtype=np.float64)) / scale
            for chunk in _chunks(examples, size)
            for a, b, scale in zip(function(chunk), reference(chunk), scales, strict=True)
        ]
        differences[size] = max(float(gap.max()) for gap in gaps) if all(np.isfinite(g).all() for g in gaps) else float("nan")
        mean = float(np.mean([gap.mean() for gap in gaps]))
    return Parity(differences, tolerance, mean)


def torch_function(part: Part) -> Function:
    """Return what a part should compute, by the model's own methods, as a function of arrays."""
    import torch

    return lambda inputs: [output.numpy() for output in part.expected([torch.from_numpy(each) for each in inputs])]


def _chunks(examples: Sequence[Array], size: int) -> Iterator[list[Array]]:
    for start in range(0, min(len(examples[0]), CHUNKS * size), size):
        yield [each[start : start + size] for each in examples]
