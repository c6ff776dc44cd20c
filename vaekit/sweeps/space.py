"""The space of a sweep or search: options with their values or ranges."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vaekit.errors import UsageError
from vaekit.specs.models import RunSpec


@dataclass(frozen=True)
class Range:
    """A closed range of numbers, or of integers if both ends are integers.

    Args:
        low: The minimum.
        high: The maximum.
        log: Whether a search samples the range on a logarithmic scale.

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
            raise UsageError("invalid range", given=self, expected=expected)

    def __str__(self) -> str:
        low, high = (self.low, self.high) if self.whole else (float(self.low), float(self.high))
        return f"{low}..{high}{':log' if self.log else ''}"

    @property
    def whole(self) -> bool:
        """Whether the range consists of integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)


MOST_MODELS = 10_000


def combinations(over: Mapping[str, Sequence[Any]], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return all combinations of values; the last option varies fastest.

    Raises:
        UsageError: There is nothing to vary, or an option has no values, has duplicate values, or is also set.
    """
    count = math.prod(len(values) for values in over.values())
    if count > MOST_MODELS:
        raise UsageError("too many models for one sweep", given=f"{count:,}", expected=f"{MOST_MODELS:,} at most")
    check_over(over, options)
    return [dict(zip(over, values, strict=True)) for values in itertools.product(*over.values())]


def check_over(over: Mapping[str, Sequence[Any] | Range], options: Mapping[str, Any]) -> None:
    """Check that all options can be varied.

    Raises:
        UsageError: There is nothing to vary, or an option has no values, has duplicate values, or is also set.
    """
    for name, values in over.items():
        if not isinstance(values, Range) and (not values or any(value in values[:at] for at, value in enumerate(values))):
            raise UsageError(f"{name} needs distinct values", given=", ".join(map(str, values)) or "none")
        if name in options:
            raise UsageError(f"{name} is both set and varied", remedy="do one or the other")
    if not over:
        raise UsageError("there is nothing to sweep over", expected="an option and its values, such as --over beta=1,2,4")


def check_max_time(spec: RunSpec) -> None:
    """Check that the models of a sweep are not limited in time.

    Raises:
        UsageError: They are.
    """
    if spec.train.max_time is not None:
        raise UsageError(
            "models that train for the same time cannot be compared, as their steps depend on what else the machine does",
            given=f"--max-time {spec.train.max_time:g}s",
            remedy="use --epochs or --max-steps; Ctrl-C stops a sweep, and the same search or `vaekit resume` continues it",
        )


def read_over(text: str) -> tuple[str, list[str] | Range]:
    """Parse an option with its values or range.

    ``beta=1,2,4`` lists values, and ``encoder.hidden=512;256,256`` lists values that contain commas; commas in parentheses, as
    in ``beta=1,linear(0,1,5)``, are part of a value. ``seed=0..3`` is a range of integers, ``beta=0.5..8`` a range of real
    numbers, and ``lr=1e-4..1e-2:log`` a range on a logarithmic scale.

    Raises:
        UsageError: The text has none of these forms.
    """
    name, equals, values = text.removeprefix("--").partition("=")
    if not (name and equals and values):
        raise UsageError("expected OPTION=VALUES", given=text, expected="for example beta=1,2,4 or seed=0..3")
    name = name.replace("-", "_")
    if bounds := re.fullmatch(rf"({_NUMBER})\.\.({_NUMBER})(:log)?", values):
        return name, Range(_number(bounds[1]), _number(bounds[2]), log=bounds[3] is not None)
    return name, values.split(";") if ";" in values else re.split(r",(?![^()]*\))", values)


_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


def _number(text: str) -> float:
    return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)


def listed(name: str, values: Sequence[Any] | Range) -> Sequence[Any]:
    """Return all values of an option; integer ranges are enumerated.

    Raises:
        UsageError: The range is real-valued or has a logarithmic scale.
    """
    if not isinstance(values, Range):
        return values
    if not values.whole or values.log:
        raise UsageError(
            "a sweep trains every value, so it cannot use real-valued or logarithmic ranges",
            given=f"{name}={values}",
            expected=f"values such as {name}=1,2,4, or integers such as {name}=0..3",
            remedy="list the values, or let --search optuna choose them",
        )
    return range(int(values.low), int(values.high) + 1)
