"""Sweeps: many models from one spec and lists of values, in one process."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vaekit import registry
from vaekit.assembly import resolve, resolve_compile
from vaekit.data import Splits
from vaekit.errors import DivergenceError, UsageError
from vaekit.files import write_text
from vaekit.options import build_spec
from vaekit.run import Run
from vaekit.specs import RunSpec, plain_spec
from vaekit.training.folder import RUNS, RunFolder, next_numbered
from vaekit.training.sweep import Stacking, fit_stacked, plan
from vaekit.training.trainer import Trainer

SUMMARY = ("elbo", "elbo_is", "reconstruction", "kl", "loss", "active_units", "epoch")
"""What ``sweep.json`` takes from each run's evaluation."""


def sweep(
    spec: RunSpec | Mapping[str, Any] | str | Path | None = None,
    *,
    over: Mapping[str, Sequence[Any]],
    out: str | Path | None = None,
    stack: Stacking = "auto",
    tell: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> list[Run]:
    """Train a model for every combination of some options' values; return the runs, in the order of the combinations.

    Models that differ in seed, learning rate, weight decay, gradient clipping or the numbers of their losses alone are stepped
    together where that is faster, see `vaekit.training.sweep.obstacle`. Each is the model that `vaekit.train` gives, up to
    rounding, and has a run folder of its own; ``sweep.json`` beside them holds the test set's numbers of all. A model whose loss
    becomes NaN stops with its error, which ``sweep.json`` holds; its run has no evaluation.

    Args:
        spec: As for `vaekit.train`.
        over: Values by option: ``{"beta": (1, 2, 4), "seed": range(4)}``.
        out: Folder of the runs, new or empty; by default the next number under ``runs/``.
        stack: Whether to step models together: ``on`` where possible, ``off`` never, ``auto`` where it is known to be faster.
        tell: Receives lines of progress.
        options: As for `vaekit.train`.

    Raises:
        UsageError: The request is wrong, or ``stack`` is ``on`` and the models cannot be stacked.
        DataError: The data are missing or do not fit.

    Example:
        >>> runs = vaekit.sweep(over={"beta": (1, 4), "seed": range(2)}, loss="beta", epochs=3)  # doctest: +SKIP
        >>> [run.evaluation()["elbo"] for run in runs]  # doctest: +SKIP
    """
    base = plain_spec(spec)
    points = combinations(over, options)
    asked = [resolve(build_spec(base, {**options, **point})) for point in points]
    splits = _load(asked)
    groups, notes = plan(asked, splits, stack)
    specs = [resolve_compile(each, split.shape, len(split.train)) for each, split in zip(asked, splits, strict=True)]
    folder = _create(out)
    folders = [
        RunFolder.create(each, folder / _name(n, point)) for n, (each, point) in enumerate(zip(specs, points, strict=True), 1)
    ]
    tell(f"{folder}: {len(points)} models, {sum(len(g.numbers) for g in groups if g.stacked)} of them stacked")
    for note in notes:
        tell(f"note: {note}")

    errors: dict[int, DivergenceError] = {}
    began = time.perf_counter()
    for group in groups:
        trainers = [Trainer(specs[number], splits[number], folders[number]) for number in group.numbers]
        if group.stacked:
            failed = fit_stacked(trainers, compiled=group.compiled, tell=tell)
            errors |= {group.numbers[place]: error for place, error in failed.items()}
            continue
        (number,) = group.numbers
        try:
            results = trainers[0].fit()
            tell(f"{folders[number].path.name}: loss {results['loss']:.2f} on the test set")
        except DivergenceError as error:
            errors[number] = error
            tell(f"{folders[number].path.name} stops: {error.message}")
    stacked = {number for group in groups if group.stacked for number in group.numbers}
    runs = [Run(each.path) for each in folders]
    rows = [
        {"run": run.path.name, "options": point, "stacked": number in stacked, **_outcome(run, errors.get(number))}
        for number, (run, point) in enumerate(zip(runs, points, strict=True))
    ]
    summary = {
        "over": {name: list(values) for name, values in over.items()},
        "seconds": round(time.perf_counter() - began, 3),
        "notes": notes,
        "runs": rows,
    }
    write_text(folder / "sweep.json", json.dumps(summary, indent=2) + "\n")
    return runs


def combinations(over: Mapping[str, Sequence[Any]], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every combination of values, the last option's changing fastest.

    Raises:
        UsageError: There is nothing to vary, an option has no values or one twice, or is also set to one value.
    """
    for name, values in over.items():
        if not values or any(value in values[:place] for place, value in enumerate(values)):
            raise UsageError(f"the values of {name} are none, or not all different", given=", ".join(map(str, values)) or "none")
        if name in options:
            raise UsageError(f"{name} is set and varied", remedy="keep one of them")
    if not over:
        raise UsageError("there is nothing to sweep over", expected="an option and its values, as --over beta=1,2,4")
    return [dict(zip(over, values, strict=True)) for values in itertools.product(*over.values())]


def read_over(text: str) -> tuple[str, list[str]]:
    """Read an option and its values: ``beta=1,2,4``, ``seed=0..3``, or ``encoder.hidden=512;256,256`` for values with commas.

    Raises:
        UsageError: It is none of these.
    """
    name, equals, values = text.removeprefix("--").partition("=")
    if not (name and equals and values):
        raise UsageError("this is no option with values", given=text, expected="as beta=1,2,4 or seed=0..3")
    if bounds := re.fullmatch(r"(\d+)\.\.(\d+)", values):
        found = [str(value) for value in range(int(bounds[1]), int(bounds[2]) + 1)]
    else:
        found = values.split(";" if ";" in values else ",")
    return name.replace("-", "_"), found


def _load(specs: Sequence[RunSpec]) -> list[Splits]:
    """Read the data of each spec, each data set once."""
    read: dict[str, Splits] = {}
    for spec in specs:
        key = spec.data.dataset.model_dump_json()
        if key not in read:
            read[key] = registry.datasets.build(spec.data.dataset).load()
    return [read[spec.data.dataset.model_dump_json()] for spec in specs]


def _create(out: str | Path | None) -> Path:
    """Make the sweep's folder."""
    if out is None:
        return next_numbered(RUNS, "sweep")
    path = Path(out)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"{path} exists already; a sweep never overwrites one", remedy="choose another --out")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write the folder {path}", given=error.strerror, remedy="choose another --out") from None
    return path


def _name(number: int, point: Mapping[str, Any]) -> str:
    """Name a run's folder by its number and options: ``0003-beta=4-seed=1``."""
    text = "-".join(f"{name}={value}" for name, value in point.items())
    return f"{number:04d}-{re.sub(r'[^A-Za-z0-9_.=+-]+', '_', text)[:80]}"


def _outcome(run: Run, error: DivergenceError | None) -> dict[str, Any]:
    evaluation = run.evaluation()
    if evaluation is None:
        return {"error": str(error)}
    return {"test": {name: evaluation[name] for name in SUMMARY if name in evaluation}}
