"""What a sweep varies: options, their values, and ranges of numbers."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vaekit.errors import UsageError


@dataclass(frozen=True)
class Range:
    """All numbers between two, both included: whole ones where both are.

    Args:
        low: The lowest.
        high: The highest.
        log: Whether a search is to look for it on a logarithmic scale.

    Example:
        >>> str(Range(1e-4, 1e-2, log=True))
        '0.0001..0.01:log'
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low <= self.high or (self.log and self.low <= 0):
            expected = "a low and a high number" + (", both above 0 for a logarithmic scale" if self.log else "")
            raise UsageError("this is no range", given=self, expected=expected)

    def __str__(self) -> str:
        low, high = (self.low, self.high) if self.whole else (float(self.low), float(self.high))
        return f"{low}..{high}{':log' if self.log else ''}"

    @property
    def whole(self) -> bool:
        """Whether it is one of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)


MOST_MODELS = 10_000


def combinations(over: Mapping[str, Sequence[Any]], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every combination of values, the last option's changing fastest.

    Raises:
        UsageError: There is nothing to vary, an option has no values or one twice, or is also set to one value.
    """
    count = math.prod(len(values) for values in over.values())
    if count > MOST_MODELS:
        raise UsageError("these are too many models for one sweep", given=f"{count:,}", expected=f"{MOST_MODELS:,} at most")
    check_over(over, options)
    return [dict(zip(over, values, strict=True)) for values in itertools.product(*over.values())]


def check_over(over: Mapping[str, Sequence[Any] | Range], options: Mapping[str, Any]) -> None:
    """Refuse what cannot be varied.

    Raises:
        UsageError: There is nothing to vary, an option has no values or one twice, or is also set to one value.
    """
    for name, values in over.items():
        if not isinstance(values, Range) and (not values or any(value in values[:at] for at, value in enumerate(values))):
            raise UsageError(f"the values of {name} are none, or not all different", given=", ".join(map(str, values)) or "none")
        if name in options:
            raise UsageError(f"{name} is set and varied", remedy="keep one of them")
    if not over:
        raise UsageError("there is nothing to sweep over", expected="an option and its values, as --over beta=1,2,4")


def read_over(text: str) -> tuple[str, list[str] | Range]:
    """Read an option and its values, or their range.

    ``beta=1,2,4``; ``encoder.hidden=512;256,256`` for values with commas; ``seed=0..3`` for whole numbers, ``beta=0.5..8`` for
    all between two, ``lr=1e-4..1e-2:log`` for those on a logarithmic scale.

    Raises:
        UsageError: It is none of these.
    """
    name, equals, values = text.removeprefix("--").partition("=")
    if not (name and equals and values):
        raise UsageError("this is no option with values", given=text, expected="as beta=1,2,4 or seed=0..3")
    name = name.replace("-", "_")
    if bounds := re.fullmatch(rf"({_NUMBER})\.\.({_NUMBER})(:log)?", values):
        return name, Range(_number(bounds[1]), _number(bounds[2]), log=bounds[3] is not None)
    return name, values.split(";" if ";" in values else ",")


_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


def _number(text: str) -> float:
    return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)


def listed(name: str, values: Sequence[Any] | Range) -> Sequence[Any]:
    """Return all values of an option; those of a range of whole numbers are counted out.

    Raises:
        UsageError: The range has no end of values.
    """
    if not isinstance(values, Range):
        return values
    if not values.whole or values.log:
        raise UsageError(
            "a sweep takes every value, and this range has no end of them, or a scale",
            given=f"{name}={values}",
            expected=f"values, as {name}=1,2,4, or whole numbers, as {name}=0..3",
            remedy="list some, or let --search optuna choose them",
        )
    return range(int(values.low), int(values.high) + 1)
