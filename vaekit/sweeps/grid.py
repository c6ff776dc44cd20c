"""Sweeps: models for all combinations of option values, trained in a single process."""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from vaekit.compute.distributed import num_processes
from vaekit.compute.process import Interrupted
from vaekit.data.sources import Splits
from vaekit.errors import DivergenceError, UsageError
from vaekit.model.assembly import assemble
from vaekit.run import Run
from vaekit.specs.models import RunSpec, plain_spec
from vaekit.specs.options import build_spec
from vaekit.store.checkpoint import space_for
from vaekit.store.folder import RunFolder, check_space
from vaekit.store.record import Record, load_splits
from vaekit.sweeps.grouping import Group, Grouping, Stacking
from vaekit.sweeps.record import is_over, make_folder, outcome, read_record, run_name, write_record
from vaekit.sweeps.space import Range, check_max_time, combinations, listed
from vaekit.sweeps.stacked_training import fit_stacked
from vaekit.training.checks import check_accumulation, check_best, check_data
from vaekit.training.hardware import check_loggers, fit_to_data, fit_to_machine, fit_to_model
from vaekit.training.initial import read_initial
from vaekit.training.progress import Reporter, Silent
from vaekit.training.trainer import Trainer


def sweep(
    spec: RunSpec | Mapping[str, Any] | str | Path | None = None,
    *,
    over: Mapping[str, Sequence[Any] | Range],
    out: str | Path | None = None,
    stack: Stacking = "auto",
    reporter: Reporter | None = None,
    **options: Any,
) -> list[Run]:
    """Train a model for every combination of option values; return the runs in the order of the combinations.

    Models that differ only in seed, initial weights, learning rate and schedule, weight decay, gradient clipping, weight
    averaging or numeric options of their losses are stacked, that is, trained together, if that is faster; see
    `vaekit.sweeps.grouping.obstacle`. Each model equals the result of `vaekit.train` up to rounding and has its own run folder;
    next to the runs, ``sweep.json`` collects the test results. If a model's loss becomes NaN, its training stops, and the error
    is recorded in ``sweep.json``; the run has no evaluation.

    Args:
        spec: As for `vaekit.train`.
        over: The values of each option to vary: ``{"beta": (1, 2, 4), "seed": range(4)}``.
        out: The folder for the runs, new or empty; default: the next number under ``runs/``.
        stack: Whether to stack models: ``on`` if possible, ``off`` never, ``auto`` if known to be faster.
        reporter: Receives progress through its ``note`` method; default: none.
        options: As for `vaekit.train`.

    Raises:
        UsageError: The request is invalid, or ``stack`` is ``on`` and the models cannot be stacked.
        DataError: The data are missing or do not fit the model.
        Interrupted: The user stopped the sweep; pass the folder in the exception to `resume_sweep` to continue.

    Example:
        >>> runs = vaekit.sweep(over={"beta": (1, 4), "seed": range(2)}, loss="beta", epochs=1, pictures="none")
        >>> [(run.spec.model.loss[0].beta, run.spec.train.seed) for run in runs]
        [(1.0, 0), (1.0, 1), (4.0, 0), (4.0, 1)]
    """
    _require_single_process()
    base, reporter = plain_spec(spec), reporter or Silent()
    values = {name: listed(name, each) for name, each in over.items()}
    points = combinations(values, options)
    specs = [fit_to_machine(build_spec(base, {**options, **point})) for point in points]
    for each in specs:
        check_loggers(each)
        check_max_time(each)
    splits = _load(specs)
    specs = [fit_to_data(each, split) for each, split in zip(specs, splits, strict=True)]
    grouping = Grouping(stack, lambda number: assemble(specs[number], splits[number]))
    chosen, spaces, initial = zip(
        *(_examine(each, split, grouping) for each, split in zip(specs, splits, strict=True)), strict=True
    )
    groups, notes = grouping.groups()
    notes = (*dict.fromkeys(note for note in initial if note), *notes)
    folder = make_folder(out)
    try:
        names = [run_name(number, point) for number, point in enumerate(points, 1)]
        for each, name in zip(chosen, names, strict=True):
            RunFolder.create(each, folder / name).release()  # until training starts
        check_space(folder, sum(spaces))
        record = {
            "over": {name: list(each) for name, each in values.items()},
            "seconds": 0.0,
            "notes": notes,
            "groups": [asdict(group) for group in groups],
            "runs": [{"run": name, "options": point} for name, point in zip(names, points, strict=True)],
        }
        write_record(folder, record)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # the sweep could not start
        raise
    reporter.note(f"{folder}: {len(points)} models, {sum(len(g.numbers) for g in groups if g.stacked)} of them stacked")
    for note in notes:
        reporter.note(f"note: {note}")
    return _train(folder, record, dict(enumerate(_Model(*each) for each in zip(chosen, splits, strict=True))), reporter)


def resume_sweep(
    folder: str | Path, *, device: str | None = None, reporter: Reporter | None = None, allow_changed_data: bool = False
) -> list[Run]:
    """Resume a sweep that was interrupted or killed; return all its runs.

    Runs that have finished or diverged are left unchanged. The others resume from their latest checkpoints: together if they
    were stacked and are at the same step, otherwise one after another. The results equal those of an uninterrupted sweep up to
    rounding.

    Args:
        folder: The folder of the sweep.
        device: The device to continue on; default: the sweep's device.
        reporter: Receives progress through its ``note`` method; default: none.
        allow_changed_data: Whether to continue if the data have changed.

    Raises:
        DataError: The data have changed.
        CheckpointError: The folder is not a sweep, or one of its runs is missing or damaged.
        UsageError: All runs are complete, the folder is that of a search, or the device is not available.
    """
    _require_single_process()
    folder, reporter = Path(folder), reporter or Silent()
    record = read_record(folder)
    if "groups" not in record:
        raise UsageError(f"{folder} is a search", remedy="repeat its `vaekit sweep` command to continue or join it")
    left = {number: row for number, row in enumerate(record["runs"]) if not is_over(row)}
    if not left:
        raise UsageError(f"{folder} is complete: all {len(record['runs'])} runs are done")
    asked = [fit_to_machine(Record(folder / row["run"]).spec, device) for row in left.values()]
    models = {}
    for number, spec, splits in zip(left, asked, _load(asked), strict=True):
        models[number] = _Model(fit_to_model(spec, assemble(spec, splits)), splits)
    reporter.note(f"{folder}: {len(left)} of {len(record['runs'])} models to continue")
    return _train(folder, record, models, reporter, allow_changed_data=allow_changed_data)


def _examine(spec: RunSpec, splits: Splits, grouping: Grouping) -> tuple[RunSpec, int, str]:
    """Check a model and add it to a grouping; return its resolved spec, the size of its files, and a note on initial weights."""
    objective = assemble(spec, splits)
    check_data(spec, objective.vae.likelihood, splits)
    check_best(spec, objective, splits)
    check_accumulation(spec, objective)
    initial = read_initial(spec, objective.vae, splits.facts)
    resolved = fit_to_model(spec, objective)
    grouping.add(spec, objective)
    return resolved, space_for(objective), "" if initial is None else initial.note


class _Model(NamedTuple):
    """A model of a sweep before training."""

    spec: RunSpec
    splits: Splits


def _train(
    folder: Path,
    record: dict[str, Any],
    models: dict[int, _Model],
    reporter: Reporter,
    *,
    allow_changed_data: bool = False,
) -> list[Run]:
    """Train the unfinished runs of a sweep, and record the outcome of each.

    Args:
        folder: The folder of the sweep.
        record: The contents of its ``sweep.json``.
        models: The models by run number.
        reporter: Receives progress.
        allow_changed_data: Whether to resume if the data have changed.
    """
    rows = record["runs"]
    runs = [Run(folder / row["run"]) for row in rows]
    seconds, began = record["seconds"], time.perf_counter()

    def note() -> None:
        record["seconds"] = round(seconds + time.perf_counter() - began, 3)
        write_record(folder, record)

    try:
        for group in _remaining([Group(**group) for group in record["groups"]], runs, rows):
            trainers: list[Trainer] = []  # frees those of the last group
            for number in group.numbers:
                spec, splits = models[number]
                trainers.append(
                    Trainer(spec, assemble(spec, splits), splits, runs[number].folder, allow_changed_data=allow_changed_data)
                )
            fit = partial(fit_stacked, compiled=group.compiled) if group.stacked else _fit_alone
            errors = fit(trainers, reporter=reporter)
            for place, number in enumerate(group.numbers):
                rows[number] |= outcome(runs[number], errors.get(place))
            note()
    except KeyboardInterrupt:
        note()
        raise Interrupted(str(folder)) from None
    return runs


def _require_single_process() -> None:
    """Check that this is the only process, since each process would train all models."""
    if num_processes() > 1:
        raise UsageError(
            "a sweep must run in a single process, but torchrun started several",
            remedy="use --search optuna, which supports any number of processes",
        )


def _remaining(groups: Sequence[Group], runs: Sequence[Run], rows: Sequence[Mapping[str, Any]]) -> list[Group]:
    """Return the groups that remain to be trained, split into models at the same step."""
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
                folder.metrics.unlink(missing_ok=True)  # from an epoch without a checkpoint
                far[0, 0].append(number)
        left += [
            Group(tuple(numbers), group.stacked and len(numbers) > 1, group.compiled and len(numbers) > 1)
            for numbers in far.values()
        ]
    return left


def _fit_alone(trainers: Sequence[Trainer], *, reporter: Reporter) -> dict[int, DivergenceError]:
    """Train one model, with the interface of `fit_stacked`."""
    (trainer,) = trainers
    name = trainer.folder.path.name
    try:
        results = trainer.fit(resume=trainer.folder.last.exists())
    except DivergenceError as error:
        reporter.note(f"{name} stops: {error.message}")
        return {0: error}
    reporter.note(f"{name}: loss {results['loss']:.2f} on the test set")
    return {}


def load_once(spec: RunSpec, loaded: dict[str, Splits]) -> Splits:
    """Return the data of a spec, loading each dataset at most once into ``loaded``."""
    key = f"{spec.data.dataset.model_dump_json()}, missing: {spec.data.missing}"
    if key not in loaded:
        loaded[key] = load_splits(spec)
    return loaded[key]


def _load(specs: Sequence[RunSpec]) -> list[Splits]:
    """Load the data of each spec, each dataset only once."""
    loaded: dict[str, Splits] = {}
    return [load_once(spec, loaded) for spec in specs]
