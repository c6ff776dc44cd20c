"""Searches: option values chosen from earlier results, by any number of processes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vaekit.compute.distributed import ProcessGroup, select_device
from vaekit.compute.process import Interrupted
from vaekit.data.sources import Splits
from vaekit.errors import DivergenceError, UsageError, VaekitError, reason_of
from vaekit.evaluation.evaluator import check_criterion
from vaekit.evaluation.metrics import Criterion
from vaekit.extras import import_extra
from vaekit.files import local_path
from vaekit.model.assembly import assemble
from vaekit.run import Run
from vaekit.specs.models import RunSpec, plain_spec
from vaekit.specs.options import build_spec
from vaekit.store.folder import RunFolder
from vaekit.store.record import Record
from vaekit.sweeps.grid import load_once
from vaekit.sweeps.record import make_folder, outcome, read_record, run_name, write_record
from vaekit.sweeps.space import Range, check_max_time, check_over
from vaekit.training.checks import check_best, check_data
from vaekit.training.hardware import check_loggers, fit_to_data, fit_to_machine, fit_to_model
from vaekit.training.initial import read_initial
from vaekit.training.progress import Reporter, Silent
from vaekit.training.trainer import Trainer

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

    from vaekit.sweeps.study import Study

Space = Mapping[str, Sequence[Any] | Range]


def search(
    spec: RunSpec | Mapping[str, Any] | str | Path | None = None,
    *,
    over: Space,
    storage: str | Path,
    trials: int,
    metric: str = "elbo",
    prune: bool = True,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **options: Any,
) -> list[Run]:
    """Search for the best option values with Optuna's TPE; return the completed runs, best first.

    Any number of processes started with the same request, whether by hand, by torchrun or by SLURM, on machines with a shared
    file system, share the study in ``storage``. Each process trains one model at a time. If a process is interrupted or dies,
    another one, running or started later, takes over its trial. If a model's loss becomes NaN, the trial fails and records the
    error. ``sweep.json``, next to the runs, collects all results.

    Trials are compared by a validation metric at the epoch of the best weights. The objective itself is not comparable between
    models with different objectives: it is lower for a smaller β, regardless of quality. The default is therefore the ELBO.

    Args:
        spec: As for `vaekit.train`.
        over: The values or the range of each option: ``{"encoder": ("mlp", "cnn"), "lr": vaekit.Range(1e-4, 1e-2, log=True)}``.
        storage: The file of the study, an Optuna journal created by the first process; database URLs are not supported.
        trials: The total number of trials in the study, over all processes; it may be increased later.
        metric: A validation metric, maximised or minimised by its usual direction; to override it, append a direction, as in
            ``beta:max``.
        prune: Whether to stop trials worse than the median of the others after a third of the epochs.
        out: The folder for the runs, new or empty; default: the study's folder, or the next number under ``runs/``.
        reporter: Receives progress through its ``note`` method; default: none.
        options: As for `vaekit.train`.

    Raises:
        UsageError: The request is invalid or differs from the study's, or Optuna is not installed.
        DataError: The data are missing or do not fit the model.
        Interrupted: The user stopped the search; run the same search again to continue.

    Example:
        >>> lr = vaekit.Range(1e-4, 1e-2, log=True)
        >>> best, other = vaekit.search(over={"lr": lr}, storage="lr.journal", trials=2, epochs=1, pictures="none")
        >>> best.metrics()[-1]["validation_elbo"] >= other.metrics()[-1]["validation_elbo"]
        True
    """
    plan = Plan(plain_spec(spec), options, over, Criterion.read(metric), prune=prune)
    folder = work(plan, storage, trials, out, reporter or Silent())
    done = [row for row in read_record(folder)["runs"] if "test" in row]
    done.sort(key=lambda row: row["value"], reverse=plan.metric.maximise)
    return [Run(folder / row["run"]) for row in done]


class Plan:
    """The definition of a search.

    Args:
        base: Plain data of the base spec.
        options: The fixed options.
        over: The varied options.
        metric: The metric by which trials are compared.
        prune: Whether unpromising trials are stopped early.
    """

    def __init__(
        self, base: Mapping[str, Any], options: Mapping[str, Any], over: Space, metric: Criterion, *, prune: bool
    ) -> None:
        check_over(over, options)
        self.base, self.options, self.over, self.metric, self.prune = base, options, over, metric, prune
        self.loaded: dict[str, Splits] = {}
        self.outcomes: dict[int, dict[str, Any]] = {}
        """The outcome of each completed trial, which is read once."""
        self.notes: list[str] = []

    @cached_property
    def request(self) -> dict[str, Any]:
        """The request shared by all processes of the study, as JSON data: the search space and a machine-independent spec."""
        over = {name: str(values) if isinstance(values, Range) else list(values) for name, values in self.over.items()}
        metric = f"{self.metric.name}:{'max' if self.metric.maximise else 'min'}"
        sections = build_spec(self.base, {**self.options, **self.corners()[0]}).model_dump(mode="json").values()
        settings = {name: value for section in sections for name, value in section.items()}
        prints = {json.dumps(self.load(self.spec(point)).fingerprint) for point in self.corners()}
        data = [hashlib.blake2b(each.encode(), digest_size=16).hexdigest() for each in sorted(prints)]
        request = {"over": over, "metric": metric, "prune": self.prune, "data": data, **settings}
        plain: dict[str, Any] = json.loads(json.dumps(request, default=str))
        return plain

    def corners(self) -> list[dict[str, Any]]:
        """Return points that together cover every value and both ends of every range."""
        edges = {name: (v.low, v.high) if isinstance(v, Range) else tuple(v) for name, v in self.over.items()}
        first = {name: values[0] for name, values in edges.items()}
        return [first, *({**first, name: value} for name, values in edges.items() for value in values[1:])]

    def spec(self, point: Mapping[str, Any]) -> RunSpec:
        """Return the spec of a point, adapted to this machine."""
        spec = fit_to_machine(build_spec(self.base, {**self.options, **point}))
        check_loggers(spec)
        return spec

    def point(self, trial: Trial) -> dict[str, Any]:
        """Return the values of a trial, sampling those not sampled yet."""
        return {name: _suggest(trial, name, values) for name, values in self.over.items()}

    def load(self, spec: RunSpec) -> Splits:
        """Return the data of a spec."""
        return load_once(spec, self.loaded)

    def record(self, study: Study) -> None:
        """Write ``sweep.json``."""
        trials = [trial for trial in study.trials if "run" in trial.user_attrs]
        times = [time for trial in trials for time in (trial.datetime_start, trial.datetime_complete) if time is not None]
        record = {
            **{name: self.request[name] for name in ("over", "metric")},
            "seconds": round((max(times) - min(times)).total_seconds(), 3),
            "notes": self.notes,
            "best": study.best and study.best.user_attrs["run"],
            "runs": [
                {"run": trial.user_attrs["run"], "options": trial.params, **self._outcome(study, trial)} for trial in trials
            ],
        }
        write_record(study.folder, record)

    def _outcome(self, study: Study, trial: FrozenTrial) -> dict[str, Any]:
        """Return the outcome of a trial for ``sweep.json``."""
        state = trial.state.name
        if state == "FAIL":
            return {"error": trial.user_attrs.get("error", "")}
        if state == "PRUNED":
            return {"value": trial.value, "pruned": trial.last_step}
        if state == "COMPLETE":
            if trial.number not in self.outcomes:
                self.outcomes[trial.number] = outcome(Record(study.folder / trial.user_attrs["run"]), None)
            return {"value": trial.value, **self.outcomes[trial.number]}
        return {}

    def check(self) -> RunSpec:
        """Check that the search can run with comparable trials; return the spec of one of its models.

        Raises:
            UsageError: A value is invalid, or the metric is unavailable or not comparable between the models.
            DataError: The data are missing or do not fit the model.
        """
        specs = [self.spec(point) for point in self.corners()]
        specs = [fit_to_data(spec, self.load(spec)) for spec in specs]
        for spec in specs:
            splits = self.load(spec)
            check_max_time(spec)
            objective = assemble(spec, splits)
            check_data(spec, objective.vae.likelihood, splits)
            initial = read_initial(spec, objective.vae, splits.facts)
            self.notes += [] if initial is None or initial.note in self.notes else [initial.note]
            fit_to_model(spec, objective)
            check_criterion(self.metric, "--metric", spec, objective, splits)
            check_best(spec, objective, splits)
        about = {spec.data.dataset.model_dump_json() + _about(spec): _about(spec) for spec in specs}
        if self.metric.name == "elbo" and len(about) > 1:
            raise UsageError(
                "ELBOs are not comparable across data or likelihoods",
                given="; ".join(dict.fromkeys(about.values())),
                expected="the same data and likelihood in all trials",
                remedy="vary other options, or choose another --metric",
            )
        return specs[0]


def work(plan: Plan, storage: str | Path, trials: int, out: str | Path | None, reporter: Reporter) -> Path:
    """Run trials until the study has the requested number; return the folder of the runs. See `search`."""
    import_extra("optuna", "optuna", "a search")
    from vaekit.sweeps.study import Study

    storage = local_path(storage)
    if trials < 1:
        raise UsageError("a search needs at least one trial", given=trials, expected="1 or more")
    first = plan.check()
    for note in plan.notes:
        reporter.note(f"note: {note}")
    study = Study(
        storage,
        plan.request,
        lambda: make_folder(out),
        plan.record,
        maximise=plan.metric.maximise,
        seed=first.train.seed,
        warm_up=first.train.epochs // 3,
    )
    if out is not None and Path(out).resolve() != study.folder:
        raise UsageError("the study's runs are in another folder", given=f"--out {out}", expected=study.folder)
    if not study.folder.is_dir():
        raise UsageError("the folder of the study's runs is missing", given=study.folder, remedy="choose another --storage")
    try:
        while (trial := study.take(trials, lambda trial: run_name(trial.number, plan.point(trial)))) is not None:
            _train(trial, plan, study, reporter)
    except KeyboardInterrupt:
        raise Interrupted(str(study.folder)) from None
    finally:
        study.release()
    return study.folder


def _train(trial: Trial, plan: Plan, study: Study, reporter: Reporter) -> None:
    """Train the model of a trial, from its checkpoint if there is one, and report the outcome to the study."""
    from optuna import TrialPruned
    from optuna.trial import TrialState

    folder = RunFolder(study.folder / trial.user_attrs["run"])
    name = folder.path.name
    try:
        _fit(trial, plan, folder)
    except TrialPruned:
        study.finish(trial, TrialState.PRUNED)
        reporter.note(f"{name}: pruned")
    except (DivergenceError, torch.OutOfMemoryError) as error:
        study.finish(trial, TrialState.FAIL, error=str(error))
        reporter.note(f"{name} stops: {str(error).partition(chr(10))[0]}")
    except Exception as error:
        study.finish(trial, TrialState.FAIL, error=str(error) if isinstance(error, VaekitError) else reason_of(error))
        raise
    else:
        (*_, kept) = (record for record in folder.read_metrics() if record["best"])
        value = plan.metric.of(kept)
        study.finish(trial, TrialState.COMPLETE, value=value)
        best = study.best
        assert best is not None  # this trial, at least
        reporter.note(f"{name}: validation {plan.metric.name} {value:.2f}; best: {best.value:.2f}, trial {best.number}")


def _fit(trial: Trial, plan: Plan, folder: RunFolder) -> None:
    spec = plan.spec(plan.point(trial))
    splits = plan.load(spec)
    begun = folder.last.exists()
    spec = Record(folder).spec if begun else fit_to_data(spec, splits)
    objective = assemble(spec, splits)
    spec = fit_to_model(spec, objective)
    if not begun:
        folder.discard()  # left by a process that died before its first checkpoint
        folder = RunFolder.create(spec, folder.path)
    if spec.train.compile == "on":
        torch.compiler.reset()  # the models of earlier trials count towards the recompilation limit
    watch = _Watch(trial, plan, spec.train.epochs)
    place = ProcessGroup(device=select_device(spec.train.device))
    Trainer(spec, objective, splits, folder, reporter=watch, processes=place).fit(resume=begun)


def _suggest(trial: Trial, name: str, values: Sequence[Any] | Range) -> Any:
    """Sample the value of an option, or return the value sampled before."""
    if not isinstance(values, Range):
        labels: dict[Any, Any] = {value if isinstance(value, str | int | float) else str(value): value for value in values}
        return labels[trial.suggest_categorical(name, list(labels))]
    if values.whole:
        return trial.suggest_int(name, int(values.low), int(values.high), log=values.log)
    return trial.suggest_float(name, values.low, values.high, log=values.log)


def _about(spec: RunSpec) -> str:
    """Describe the likelihood and data of a spec's ELBO."""
    return f"{spec.model.likelihood.kind} of {spec.data.dataset.kind}, binarize {spec.data.binarize}"


class _Watch(Silent):
    """Reports each epoch to a trial; stops training if Optuna prunes the trial."""

    def __init__(self, trial: Trial, plan: Plan, epochs: int) -> None:
        self.trial, self.plan, self.epochs = trial, plan, epochs

    def epoch(self, record: Mapping[str, Any]) -> None:
        from optuna import TrialPruned

        self.trial.report(self.plan.metric.of(record), record["epoch"])
        if self.plan.prune and record["epoch"] < self.epochs and self.trial.should_prune():
            raise TrialPruned
