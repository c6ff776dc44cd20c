"""The latency of function calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

ROUND = 0.05
"""The number of seconds for which a function is called before the next one takes its turn."""


@dataclass(frozen=True)
class Latency:
    """The milliseconds per call: median and quartiles over ``calls`` calls."""

    median: float
    lower: float
    upper: float
    calls: int

    def __str__(self) -> str:
        return f"{self.median:.3g} ms ({self.lower:.3g}-{self.upper:.3g})"


def latencies(functions: Mapping[str, Callable[[], object]], *, seconds: float = 1.0) -> dict[str, Latency]:
    """Time functions in alternation, so that other load on the machine affects all of them equally.

    Args:
        functions: The functions by name.
        seconds: The duration of the measurement for each function.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        for _ in range(3):
            function()
    for _ in range(max(2, round(seconds / ROUND))):
        for name, function in functions.items():
            end = time.perf_counter() + ROUND
            function()  # the first call after another function finds cold caches
            while True:
                start = time.perf_counter()
                function()
                now = time.perf_counter()
                times[name].append(1e3 * (now - start))
                if now > end:
                    break
    return {name: _summary(values) for name, values in times.items()}


def _summary(values: list[float]) -> Latency:
    lower, median, upper = np.percentile(values, (25, 50, 75))
    return Latency(float(median), float(lower), float(upper), len(values))
