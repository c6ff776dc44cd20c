"""Trials that many processes share: an Optuna study in a file, from which each process takes one trial after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from vaekit.errors import UsageError
from vaekit.store.folder import RunFolder
from vaekit.streams import derive_seed

NAME = "vaekit"
"""What the study is called: a file holds one."""
MOST_STARTS = 3
"""Times that a trial may be started and end with its process before it has a checkpoint."""


class Study:
    """A study of many processes, on one machine or on several that share a file system with locks, as NFS 4 has.

    A process holds the lock of the trial that it trains, and the system takes it back however the process ends: a running trial
    whose lock is free has lost its process, and whoever comes next goes on with it. What is decided together is decided by one
    process at a time. A trial's parameters depend on the seed, its number and the trials before it, not on who asks.

    Args:
        storage: The study's journal.
        request: What the study is of, as JSON has it; all processes must want the same.
        make_folder: Makes the folder of the runs, for the first process.
        note: Called whenever something has changed, in one process at a time.
        maximise: Whether more is better.
        seed: Of the sampler.
        warm_up: Epochs in which no trial is pruned.

    Raises:
        UsageError: The file is no journal, or its study is of something else.
    """

    def __init__(
        self,
        storage: Path,
        request: Mapping[str, Any],
        make_folder: Callable[[], Path],
        note: Callable[[Study], None],
        *,
        maximise: bool,
        seed: int,
        warm_up: int,
    ) -> None:
        storage.parent.mkdir(parents=True, exist_ok=True)
        self.turn, self.note, self.seed = FileLock(storage.with_name(f".{storage.name}.turn")), note, seed
        self.held: FileLock | None = None
        with self.turn, _hushed():
            try:
                self.storage = JournalStorage(JournalFileBackend(str(storage), JournalFileOpenLock(str(storage))))
            except (ValueError, KeyError, TypeError, AssertionError) as error:
                raise UsageError(f"{storage} is no journal of Optuna's", given=error, remedy="choose another --storage") from None
            self.study = optuna.create_study(
                storage=self.storage,
                study_name=NAME,
                direction="maximize" if maximise else "minimize",
                pruner=optuna.pruners.MedianPruner(n_warmup_steps=warm_up),
                load_if_exists=True,
            )
            if "folder" not in self.study.user_attrs:
                self.study.set_user_attr("request", dict(request))
                self.study.set_user_attr("folder", str(make_folder().resolve()))
        self.folder = Path(self.study.user_attrs["folder"])
        began = self.study.user_attrs["request"]
        for name, value in request.items():
            if began[name] != value:
                raise UsageError(
                    f"{storage} holds a study with another {name}",
                    given=value,
                    expected=began[name],
                    remedy="ask for what it began with, or choose another --storage",
                )

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, in the order of their numbers."""
        return self.study.get_trials(deepcopy=False)

    @property
    def best(self) -> FrozenTrial | None:
        """The best trial that was trained to the end."""
        done = any(trial.state == TrialState.COMPLETE for trial in self.trials)
        return self.study.best_trial if done else None

    def take(self, most: int, begin: Callable[[Trial], str]) -> Trial | None:
        """Take a trial: one that lost its process, else a new one; None where there are as many as there may be.

        Args:
            most: Trials that there may be.
            begin: Draws a trial's parameters, or those that it still lacks, and names its run.
        """
        with self.turn:
            for known in self.trials:
                if known.state == TrialState.RUNNING and self._hold(known.number):
                    study_id = self.storage.get_study_id_from_name(NAME)
                    trial = Trial(self.study, self.storage.get_trial_id_from_study_id_trial_number(study_id, known.number))
                    if self._start(trial, begin):
                        return trial
                    self._tell(trial, TrialState.FAIL, error=f"its process ended {MOST_STARTS} times before the first checkpoint")
            if len(self.trials) >= most:
                return None
            trial = self.study.ask()
            self._hold(trial.number)
            self._start(trial, begin)
            return trial

    def finish(self, trial: Trial, state: TrialState, *, value: float | None = None, error: str | None = None) -> None:
        """Say what came of the trial that this process holds."""
        with self.turn:
            self._tell(trial, state, value=value, error=error)

    def release(self) -> None:
        """Leave the trial that this process holds, if any, to whoever comes next."""
        if self.held is not None:
            self.held.release()
            self.held = None

    def _start(self, trial: Trial, begin: Callable[[Trial], str]) -> bool:
        """Draw what a trial lacks; return whether it is to be trained: not where its processes always end at once."""
        seed = derive_seed(self.seed, "search", trial.number) % 2**32
        self.study.sampler = optuna.samplers.TPESampler(seed=seed)
        name, starts = begin(trial), trial.user_attrs.get("starts", 0)
        trial.set_user_attr("run", name)
        if not RunFolder(self.folder / name).last.exists():
            trial.set_user_attr("starts", starts + 1)
            if starts == MOST_STARTS:
                return False
        self.note(self)
        return True

    def _tell(self, trial: Trial, state: TrialState, *, value: float | None = None, error: str | None = None) -> None:
        if error is not None:
            trial.set_user_attr("error", error)
        self.study.tell(trial, value, state=state)
        self.release()
        self._lock(trial.number).unlink(missing_ok=True)  # nobody takes the lock of a finished trial
        self.note(self)

    def _hold(self, number: int) -> bool:
        """Take the lock of a trial; return whether it was free."""
        lock = FileLock(self._lock(number))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        self.held = lock
        return True

    def _lock(self, number: int) -> Path:
        return self.folder / f".{number:04d}.lock"


@contextmanager
def _hushed() -> Iterator[None]:
    """Let Optuna say warnings only."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
