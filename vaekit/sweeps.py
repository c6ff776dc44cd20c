"""Sweeps: many models from one spec and lists of values, in one process."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vaekit.assembly import moved, resolve, resolve_compile
from vaekit.data import Splits
from vaekit.errors import CheckpointError, DivergenceError, UsageError
from vaekit.files import write_text
from vaekit.options import build_spec
from vaekit.run import Run, load_splits
from vaekit.specs import RunSpec, plain_spec
from vaekit.training.folder import RUNS, RunFolder, check_space, next_numbered
from vaekit.training.process import Interrupted
from vaekit.training.sweep import Group, Stacking, fit_stacked, plan
from vaekit.training.trainer import Trainer
from vaekit.training.world import num_processes
from vaekit.values import value_text

RECORD = "sweep.json"
"""What a sweep is made of and what has come of it so far; it lies beside the runs."""
SUMMARY = ("elbo", "elbo_is", "reconstruction", "kl", "loss", "active_units", "epoch")
"""What it takes from each run's evaluation."""


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


def sweep(
    spec: RunSpec | Mapping[str, Any] | str | Path | None = None,
    *,
    over: Mapping[str, Sequence[Any] | Range],
    out: str | Path | None = None,
    stack: Stacking = "auto",
    tell: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> list[Run]:
    """Train a model for every combination of some options' values; return the runs, in the order of the combinations.

    Models that differ in seed, learning rate and its schedule, weight decay, gradient clipping, averaging of weights, or the
    numbers of their losses alone are stepped together where that is faster, see `vaekit.training.sweep.obstacle`. Each is the
    model that `vaekit.train` gives, up to rounding, and has a run folder of its own; ``sweep.json`` beside them holds the test
    set's numbers of all. A model whose loss becomes NaN stops with its error, which ``sweep.json`` holds; its run has no
    evaluation.

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
        Interrupted: The user stopped it; `resume_sweep` goes on with the folder that the exception holds.

    Example:
        >>> runs = vaekit.sweep(over={"beta": (1, 4), "seed": range(2)}, loss="beta", epochs=3)  # doctest: +SKIP
        >>> [run.evaluation()["elbo"] for run in runs]  # doctest: +SKIP
    """
    _be_alone()
    base = plain_spec(spec)
    values = {name: _listed(name, each) for name, each in over.items()}
    points = combinations(values, options)
    asked = [resolve(build_spec(base, {**options, **point})) for point in points]
    splits = _load(asked)
    groups, notes = plan(asked, splits, stack)
    specs = [resolve_compile(each, split.shape, len(split.train)) for each, split in zip(asked, splits, strict=True)]
    folder = make_folder(out)
    try:
        names = [run_name(number, point) for number, point in enumerate(points, 1)]
        folders = [RunFolder.create(each, folder / name) for each, name in zip(specs, names, strict=True)]
        check_space(folder, sum(Trainer(*each).space for each in zip(specs, splits, folders, strict=True)))
        record = {
            "over": {name: list(each) for name, each in values.items()},
            "seconds": 0.0,
            "notes": notes,
            "groups": [asdict(group) for group in groups],
            "runs": [{"run": name, "options": point} for name, point in zip(names, points, strict=True)],
        }
        write_record(folder, record)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # it could not begin
        raise
    tell(f"{folder}: {len(points)} models, {sum(len(g.numbers) for g in groups if g.stacked)} of them stacked")
    for note in notes:
        tell(f"note: {note}")
    return _train(folder, record, specs, splits, tell)


def resume_sweep(folder: str | Path, *, device: str | None = None, tell: Callable[[str], None] = lambda line: None) -> list[Run]:
    """Go on with a sweep that was interrupted or killed; return all its runs.

    Runs that have their numbers, or diverged, are left alone. The others go on from their last checkpoints: together if they were
    stacked and are equally far, else one after another. They become what they would have been, up to rounding.

    Args:
        folder: Of the sweep.
        device: Where to go on; where it was, unless given.
        tell: Receives lines of progress.

    Raises:
        CheckpointError: It is no sweep, or a run of it is missing or damaged.
        UsageError: All runs are complete, or it is a search, or the device is not there.
    """
    _be_alone()
    folder = Path(folder)
    record = read_record(folder)
    if "groups" not in record:
        raise UsageError(f"{folder} is a search", remedy="go on with it, or join it, by the `vaekit sweep` that began it")
    left = [row for row in record["runs"] if not is_over(row)]
    if not left:
        raise UsageError(f"{folder} is complete: all {len(record['runs'])} runs are done")
    specs = [moved(Run(folder / row["run"]).spec, device) for row in record["runs"]]
    splits = _load(specs)
    specs = [resolve_compile(each, split.shape, len(split.train)) for each, split in zip(specs, splits, strict=True)]
    tell(f"{folder}: {len(left)} of {len(record['runs'])} models to go on with")
    return _train(folder, record, specs, splits, tell)


def _train(
    folder: Path, record: dict[str, Any], specs: Sequence[RunSpec], splits: Sequence[Splits], tell: Callable[[str], None]
) -> list[Run]:
    """Train the runs of a sweep that have no outcome yet, and record what comes of each."""
    rows = record["runs"]
    runs = [Run(folder / row["run"]) for row in rows]
    seconds, began = record["seconds"], time.perf_counter()

    def note() -> None:
        record["seconds"] = round(seconds + time.perf_counter() - began, 3)
        write_record(folder, record)

    try:
        for group in _left([Group(**group) for group in record["groups"]], runs, rows):
            trainers = [Trainer(specs[number], splits[number], runs[number].folder) for number in group.numbers]
            errors = fit_stacked(trainers, compiled=group.compiled, tell=tell) if group.stacked else _fit_alone(trainers, tell)
            for place, number in enumerate(group.numbers):
                rows[number] |= outcome(runs[number], errors.get(place))
            note()
    except KeyboardInterrupt:
        note()
        raise Interrupted(str(folder)) from None
    return runs


def _be_alone() -> None:
    """Refuse to be one of several processes: each would train all models."""
    if num_processes() > 1:
        raise UsageError("torchrun started several processes, and a sweep is one", remedy="--search optuna takes any number")


def _left(groups: Sequence[Group], runs: Sequence[Run], rows: Sequence[Mapping[str, Any]]) -> list[Group]:
    """Return who is still to be trained with whom: of each group, those that are equally far."""
    left = []
    for group in groups:
        far: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number in group.numbers:
            folder = runs[number].folder
            if is_over(rows[number]):
                continue
            if folder.last.exists():
                far[runs[number].position()].append(number)
            else:
                folder.metrics.unlink(missing_ok=True)  # of an epoch that no checkpoint knows of
                far[0, 0].append(number)
        left += [
            Group(tuple(numbers), group.stacked and len(numbers) > 1, group.compiled and len(numbers) > 1)
            for numbers in far.values()
        ]
    return left


def _fit_alone(trainers: Sequence[Trainer], tell: Callable[[str], None]) -> dict[int, DivergenceError]:
    """Do what `fit_stacked` does, for one model."""
    (trainer,) = trainers
    name = trainer.folder.path.name
    try:
        results = trainer.fit(resume=trainer.folder.last.exists())
    except DivergenceError as error:
        tell(f"{name} stops: {error.message}")
        return {0: error}
    tell(f"{name}: loss {results['loss']:.2f} on the test set")
    return {}


def combinations(over: Mapping[str, Sequence[Any]], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every combination of values, the last option's changing fastest.

    Raises:
        UsageError: There is nothing to vary, an option has no values or one twice, or is also set to one value.
    """
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


def _listed(name: str, values: Sequence[Any] | Range) -> Sequence[Any]:
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


def load_once(spec: RunSpec, loaded: dict[str, Splits]) -> Splits:
    """Return a spec's data, from among those read already or read and put there."""
    key = spec.data.dataset.model_dump_json()
    if key not in loaded:
        loaded[key] = load_splits(spec)
    return loaded[key]


def _load(specs: Sequence[RunSpec]) -> list[Splits]:
    """Read the data of each spec, each data set once."""
    loaded: dict[str, Splits] = {}
    return [load_once(spec, loaded) for spec in specs]


def make_folder(out: str | Path | None) -> Path:
    """Make a sweep's folder."""
    if out is None:
        return next_numbered(RUNS, "sweep")
    path = Path(out)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        go_on = f", or go on with `vaekit resume {path}`" if (path / RECORD).is_file() else ""
        raise UsageError(f"{path} exists already; a sweep never overwrites one", remedy=f"choose another --out{go_on}")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write the folder {path}", given=error.strerror, remedy="choose another --out") from None
    return path


def short_text(value: Any) -> str:
    """Write an option's value as names of runs and tables have it: numbers to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else value_text(value)


def run_name(number: int, point: Mapping[str, Any]) -> str:
    """Name a run's folder by its number and options: ``0003-beta=4-seed=1``."""
    text = "-".join(f"{name}={short_text(value)}" for name, value in point.items())
    return f"{number:04d}-{re.sub(r'[^A-Za-z0-9_.=+-]+', '_', text)[:80]}"


def read_record(folder: Path) -> dict[str, Any]:
    """Read ``sweep.json``.

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text("utf-8"))
    except OSError as error:
        raise CheckpointError(f"{folder} is not the folder of a sweep", given=f"{RECORD}: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{folder / RECORD} is damaged", given=error) from None
    return record


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``sweep.json``."""
    write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")


def is_over(row: Mapping[str, Any]) -> bool:
    """Whether a row of ``sweep.json`` says what came of its run."""
    return "test" in row or "error" in row


def outcome(run: Run, error: Exception | None) -> dict[str, Any]:
    """Return what came of a run, for ``sweep.json``: its error, or the test set's numbers."""
    if error is not None:
        return {"error": str(error)}
    evaluation = run.evaluation() or {}
    return {"test": {name: evaluation[name] for name in SUMMARY if name in evaluation}}
