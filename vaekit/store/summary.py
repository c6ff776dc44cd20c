"""Runs at a glance, and tables of runs. Neither importing this module nor reading a run imports torch."""

from __future__ import annotations

import itertools
import json
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from vaekit.errors import CheckpointError, UsageError, VaekitError, plain, reason_of
from vaekit.evaluation.metrics import METRICS, Criterion
from vaekit.files import lines_from_end
from vaekit.specs.models import is_over
from vaekit.specs.outline import read_settings
from vaekit.specs.text import value_text
from vaekit.store.folder import RUNS, RunFolder

State = Literal["finished", "training", "interrupted"]
PARTS = ("encoder", "decoder", "posterior", "prior", "likelihood")
BEST = b'"best": true'
"""What the line of ``metrics.jsonl`` holds for the epoch whose weights are kept."""


@dataclass(frozen=True)
class Summary:
    """A run, as described by its folder without the weights.

    Args:
        folder: The run folder.
        settings: Its spec by dotted name; see `vaekit.specs.outline`.
        last: The record of the last epoch; empty before the first is complete.
        best: The record of the best epoch.
        evaluation: The test metrics; empty if there are none.
        changed: When its last epoch ended or, without one, when it started, in seconds since 1970; None for a shared run, since
            its files are copies.
    """

    folder: RunFolder
    settings: Mapping[str, Any]
    last: Mapping[str, Any]
    best: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    changed: float | None

    @classmethod
    def read(cls, folder: RunFolder) -> Summary:
        """Read a run.

        Raises:
            CheckpointError: A file is damaged.
            SpecError: So is the spec.
        """
        settings = read_settings(folder.spec)
        if not isinstance(settings.get("train.epochs"), int):
            raise CheckpointError(f"{folder.spec} is not the spec of a run")
        try:
            evaluation = json.loads(folder.evaluation.read_bytes()) if folder.evaluation.is_file() else {}
            last, best = _records(folder.metrics) if folder.metrics.is_file() else ({}, {})
            changed = None if folder.is_shared else (folder.metrics if last else folder.spec).stat().st_mtime
            if not isinstance(evaluation, dict):
                raise TypeError(f"{folder.evaluation.name} is not a mapping")
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise CheckpointError(f"{folder.path} is damaged", given=reason_of(error)) from None
        return cls(folder, settings, last, best, evaluation, changed)

    @property
    def name(self) -> str:
        """The name given to the run; default: that of its folder."""
        return self.settings.get("train.name") or self.folder.path.resolve().name

    @property
    def tags(self) -> list[str]:
        """The tags of the run."""
        return list(self.settings.get("train.tag") or ())

    @property
    def epoch(self) -> int:
        """The number of completed epochs."""
        epoch: int = self.last.get("epoch", 0)
        return epoch

    @property
    def state(self) -> State:
        """Whether the run is over and its best epoch evaluated, a process is training, or neither."""
        best = self.best.get("epoch", 0)
        over = is_over(self.epoch, best, self.settings["train.epochs"], self.settings.get("train.patience"))
        if over and self.evaluation.get("epoch") == best:
            return "finished"
        return "training" if self.folder.is_locked else "interrupted"

    @cached_property
    def row(self) -> dict[str, Any]:
        """Return the columns of a table of runs."""
        kinds = {part: self.settings.get(f"model.{part}.kind") for part in PARTS}
        losses = itertools.takewhile(bool, (self.settings.get(f"model.loss.{i}.kind") for i in itertools.count()))
        return {
            "run": str(self.folder.path),
            "name": self.name,
            "tags": self.tags,
            "dataset": self.settings.get("data.dataset.kind"),
            **kinds,
            "loss": [*losses],
            "latent_dim": self.settings.get("model.latent_dim"),
            "epoch": self.epoch,
            "epochs": self.settings["train.epochs"],
            "validation_elbo": self.best.get("validation_elbo"),
            "elbo": self.evaluation.get("elbo"),
            "elbo_is": self.evaluation.get("elbo_is"),
            "date": None if self.changed is None else _date(self.changed),
            "state": self.state,
        }

    def values(self, key: str) -> list[Any]:
        """Return the values of a column, of a metric of the evaluation, or of a setting, such as ``lr`` or ``encoder.hidden``.

        Several settings may share a name: ``hidden`` is an option of both the encoder and the decoder.
        """
        row = self.row
        for numbers in (row, self.evaluation):
            if key in numbers:
                return [numbers[key]]
        wanted = key.replace("-", "_")
        parts = [(re.sub(r"\.\d+(?=\.)", "", name), value) for name, value in self.settings.items()]
        return [value for name, value in parts if f".{name}".endswith(f".{wanted}")]


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def _records(metrics: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the records of the last and the best epoch in ``metrics.jsonl``; a last line cut short by a kill is left out."""
    last = best = b""
    with metrics.open("rb") as file:
        for _, line in lines_from_end(file):
            last = last or (line if line.endswith(b"\n") else b"")
            if last and BEST in line:
                best = line
                break
    if not last:
        return {}, {}
    record = json.loads(last)
    return {**record, "epoch": int(record["epoch"])}, json.loads(best or last)


def find_runs(root: Path = RUNS) -> tuple[list[Summary], dict[Path, str]]:
    """Return the runs in a folder and in its sweeps, and the other folders in it, with the reasons why they are not runs.

    Args:
        root: The folder.

    Raises:
        CheckpointError: The folder does not exist.
    """
    if not root.is_dir():
        raise CheckpointError(f"{root} is not a folder", expected="a folder of runs", remedy="start a run: `vaekit train`")
    found: list[Summary] = []
    skipped: dict[Path, str] = {}
    for path in sorted(path for path in root.iterdir() if not path.name.startswith(".") and path.is_dir()):
        if (path / "sweep.json").is_file():
            runs, others = find_runs(path)
            found += runs
            skipped |= others
            continue
        try:
            found.append(Summary.read(RunFolder(path).require()))
        except VaekitError as error:
            given = "" if error.given is None else f": {plain(error.given, 100)}"
            message = error.message.partition("\n")[0].removeprefix(str(path)).lstrip(" /\\")
            skipped[path] = f"{message}{given}"
    return found, skipped


@dataclass(frozen=True)
class Filter:
    """A condition on runs.

    Args:
        key: A column, a metric of the evaluation, or a setting.
        sign: How values are compared.
        value: The value to compare with; for ``=`` and ``!=`` a pattern, such as ``base*``.
    """

    key: str
    sign: str
    value: str

    @classmethod
    def read(cls, text: str) -> Filter:
        """Parse a condition, such as ``dataset=mnist`` or ``elbo>-100``.

        Raises:
            UsageError: It is not a condition, or it compares numbers with a text.
        """
        match = re.fullmatch(r"([\w.-]+)\s*(!=|<=|>=|=|<|>)\s*(.*)", text)
        if match is None:
            raise UsageError("not a condition", given=text, expected="KEY=VALUE, KEY!=VALUE, KEY<NUMBER or KEY>NUMBER")
        condition = cls(*match.groups())
        if condition.sign in ORDERS and _number(condition.value) is None:
            raise UsageError(f"{condition.sign} compares numbers", given=text, expected=f"{condition.key}{condition.sign}NUMBER")
        return condition

    def admits(self, run: Summary) -> bool:
        """Whether a run satisfies the condition: any of its values does, or for ``!=``, all do. One without values does not."""
        values = [item for value in run.values(self.key) for item in (value if isinstance(value, list) else [value])]
        if self.sign == "!=":
            return bool(values) and not any(self._equal(value) for value in values)
        return any(self._equal(value) if self.sign == "=" else self._ordered(value) for value in values)

    def _equal(self, value: Any) -> bool:
        number, own = _number(value), _number(self.value)
        return number == own if number is not None and own is not None else fnmatchcase(value_text(value), self.value)

    def _ordered(self, value: Any) -> bool:
        number, own = _number(value), _number(self.value)
        return number is not None and own is not None and ORDERS[self.sign](number, own)


ORDERS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def choose(runs: Sequence[Summary], *, filters: Iterable[Filter] = (), sort: str = "date") -> list[Summary]:
    """Return the runs that satisfy all conditions, sorted.

    Args:
        runs: The runs.
        filters: The conditions.
        sort: A key, as for `Filter`; the best comes first if it is a metric with a direction, else the lowest.
            ``:max`` and ``:min`` after it set the direction. Runs without a value are last.

    Raises:
        UsageError: No run has a key.
    """
    conditions = [*filters]
    order = Criterion.read(sort)
    for key in (*(condition.key for condition in conditions), order.name):
        if runs and not any(run.values(key) for run in runs):
            raise UsageError(
                f"no run has {key!r}",
                expected=f"{', '.join(runs[0].row)}; a metric, such as {', '.join([*METRICS][:4])}; or an option: encoder.hidden",
            )
    chosen = [run for run in runs if all(condition.admits(run) for condition in conditions)]
    keys = {id(run): next(iter(run.values(order.name)), None) for run in chosen}
    numbers = [_number(value) for value in keys.values() if value is not None]
    known = [run for run in chosen if keys[id(run)] is not None]

    def position(run: Summary) -> Any:
        return value_text(keys[id(run)]) if None in numbers else _number(keys[id(run)])

    return [*sorted(known, key=position, reverse=order.maximise), *(run for run in chosen if keys[id(run)] is None)]
