"""``sweep.json``, next to the runs: the definition of a sweep and its results so far."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vaekit.errors import CheckpointError, UsageError, plain
from vaekit.evaluation.metrics import METRICS
from vaekit.files import printable_path, write_text
from vaekit.specs.text import value_text
from vaekit.store.folder import RUNS, next_numbered
from vaekit.store.record import Record

RECORD = "sweep.json"


def make_folder(out: str | Path | None) -> Path:
    """Create the folder of a sweep.

    Raises:
        UsageError: It exists and is not empty, its name is invalid, or it cannot be written.
    """
    path = printable_path(out) if out is not None else None
    if path is not None and path.exists() and (not path.is_dir() or any(path.iterdir())):
        resume = f", or continue the sweep with `vaekit resume {path}`" if (path / RECORD).is_file() else ""
        raise UsageError(f"{path} is not empty, and sweeps are never overwritten", remedy=f"choose another --out{resume}")
    try:
        if path is None:
            return next_numbered(RUNS, "sweep")
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write the folder {path or RUNS}", given=error.strerror, remedy="choose another --out") from None
    return path


def short_text(value: Any) -> str:
    """Format an option's value for run names and tables, with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else value_text(value)


def run_name(number: int, point: Mapping[str, Any]) -> str:
    """Return the folder name of a run from its number and options: ``0003-beta=4-seed=1``."""
    text = "-".join(f"{name}={short_text(value)}" for name, value in point.items())
    return f"{number:04d}-{re.sub(r'[^A-Za-z0-9_.=+-]+', '_', text)[:80]}"


def read_record(folder: Path) -> dict[str, Any]:
    """Read ``sweep.json``.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
        if not (isinstance(record, dict) and isinstance(record.get("runs"), list)):
            raise TypeError("it has no list of runs")
    except OSError as error:
        raise CheckpointError(f"{folder} is not the folder of a sweep", given=f"{RECORD}: {error.strerror}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder / RECORD} is damaged", given=plain(error)) from None
    return record


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``sweep.json``."""
    write_text(folder / RECORD, json.dumps(record, indent=2, default=str) + "\n")


def is_over(row: Mapping[str, Any]) -> bool:
    """Whether a row of ``sweep.json`` contains the outcome of its run."""
    return "test" in row or "error" in row


def outcome(run: Record, error: Exception | None) -> dict[str, Any]:
    """Return the outcome of a run for ``sweep.json``: its error, or its validation and test metrics."""
    if error is not None:
        return {"error": str(error)}
    test = run.evaluation() or {}
    lines = {line["epoch"]: line for line in run.metrics()}
    best = lines.get(test.get("epoch"), {})
    validation = {name.removeprefix("validation_"): value for name, value in best.items() if name.startswith("validation_")}
    return {
        part: {name: numbers[name] for name in ("elbo_is", "epoch", *METRICS) if name in numbers}
        for part, numbers in (("validation", validation), ("test", test))
    }
