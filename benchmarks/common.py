"""Shared by the benchmarks: timing functions in alternation, and writing results together with the environment."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vaekit.benchmark.machine import environment


class Seconds(NamedTuple):
    """The duration of a call: wall-clock time and processor time."""

    wall: float
    processor: float


def alternate(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[Seconds]]:
    """Call functions in alternation; return the duration of each call, except the first of each function (warm-up)."""
    times: dict[str, list[Seconds]] = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            wall, processor = time.perf_counter(), time.process_time()
            function()
            if repeat:
                times[name].append(Seconds(time.perf_counter() - wall, time.process_time() - processor))
    return times


def ratios(slower: Sequence[Seconds], faster: Sequence[Seconds]) -> dict[str, float]:
    """Return the pairwise speed-ups of the second: median and range of wall time, median of processor time."""
    walls = [a.wall / b.wall for a, b in zip(slower, faster, strict=True)]
    processor = statistics.median(a.processor / b.processor for a, b in zip(slower, faster, strict=True))
    return {**spread(walls), "ratio_of_processor_time": processor}


def spread(ratios: Sequence[float]) -> dict[str, float]:
    """Return the median and range of ratios."""
    return {"ratio_median": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}


def per_second(amount: float, times: Sequence[Seconds]) -> float:
    """Return an amount per second, based on the median wall time."""
    return amount / statistics.median(time.wall for time in times)


def write(path: Path | None, threads: int, results: Any, /, **settings: Any) -> None:
    """Write results and the environment as JSON if a path is given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = {"environment": environment(threads), **settings, "results": results}
        path.write_text(json.dumps(whole, indent=2) + "\n", "utf-8")


def add(path: Path | None, name: str, row: Mapping[str, Any]) -> None:
    """Add a row to the results in a JSON file, in place of one of the same name, if a path is given."""
    if path is not None:
        rows = json.loads(path.read_text("utf-8"))["results"] if path.is_file() else {}
        path.write_text(json.dumps({"results": rows | {name: row}}, indent=2) + "\n", "utf-8")
