"""An Optuna study in a file, whose trials are shared by many processes."""

from __future__ import annotations

import json
import warnings
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
"""The name of the study; each file contains exactly one."""
OPENING = b'{"op_code"'
"""The start of every line of a journal."""
MOST_STARTS = 3
"""Maximum number of times that a trial may be started and lose its process before its first checkpoint."""


class Study:
    """A study shared by many processes, on one machine or several with a shared file system that supports locks, such as NFS 4.

    A process locks the trial that it runs, and the operating system releases the lock however the process ends. A running trial
    without a lock has therefore lost its process and is resumed by the next process that requests a trial. Shared decisions are
    made by one process at a time. The parameters of a trial depend on the seed, its number and the earlier trials, not on the
    process that runs it.

    Args:
        storage: The file of the study's journal.
        request: The definition of the study, as JSON data, which must be the same in all processes.
        make_folder: Creates the folder of the runs; called by the first process.
        note: Called after every change, by one process at a time.
        maximise: Whether more is better.
        seed: The seed of the sampler.
        warm_up: The number of epochs before trials can be pruned.

    Raises:
        UsageError: The file is not a journal, is damaged, or contains a study with a different request.
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
        if storage.exists() and not storage.is_file():
            raise UsageError(f"{storage} is not a regular file", remedy="choose another --storage")
        storage.parent.mkdir(parents=True, exist_ok=True)
        self.turn, self.note, self.seed = FileLock(storage.with_name(f".{storage.name}.turn")), note, seed
        self.held: FileLock | None = None
        lock = JournalFileOpenLock(str(storage))
        with self.turn, _quiet():
            try:
                _complete_last_line(storage, lock)
                self.storage = JournalStorage(JournalFileBackend(str(storage), lock))
                self.study = optuna.create_study(
                    storage=self.storage,
                    study_name=NAME,
                    direction="maximize" if maximise else "minimize",
                    pruner=optuna.pruners.MedianPruner(n_warmup_steps=warm_up),
                    load_if_exists=True,
                )
            except (ValueError, KeyError, TypeError, AssertionError, RecursionError) as error:
                raise UsageError(
                    f"{storage} is not an Optuna journal, or is damaged", given=error, remedy="choose another --storage"
                ) from None
            if "folder" not in self.study.user_attrs:
                self.study.set_user_attr("request", dict(request))
                self.study.set_user_attr("folder", str(make_folder().resolve()))
        self.folder = Path(self.study.user_attrs["folder"])
        began = self.study.user_attrs["request"]
        for name, value in request.items():
            if began[name] != value:
                raise UsageError(
                    f"{storage} contains a study with a different {name}",
                    given=value,
                    expected=began[name],
                    remedy="repeat the original request, or choose another --storage",
                )

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials in the order of their numbers."""
        return self.study.get_trials(deepcopy=False)

    @property
    def best(self) -> FrozenTrial | None:
        """The best completed trial, or None."""
        done = any(trial.state == TrialState.COMPLETE for trial in self.trials)
        return self.study.best_trial if done else None

    def take(self, most: int, begin: Callable[[Trial], str]) -> Trial | None:
        """Take a trial that lost its process, else a new one; return None if the maximum number is reached.

        Args:
            most: The maximum number of trials.
            begin: A function that samples a trial's missing parameters and returns the name of its run.
        """
        with self.turn:
            for known in self.trials:
                if known.state == TrialState.RUNNING and self._try_lock(known.number):
                    study_id = self.storage.get_study_id_from_name(NAME)
                    trial = Trial(self.study, self.storage.get_trial_id_from_study_id_trial_number(study_id, known.number))
                    if self._start(trial, begin):
                        return trial
                    self._tell(trial, TrialState.FAIL, error=f"its process died {MOST_STARTS} times before the first checkpoint")
            if len(self.trials) >= most:
                return None
            trial = self.study.ask()
            self._try_lock(trial.number)
            self._start(trial, begin)
            return trial

    def finish(self, trial: Trial, state: TrialState, *, value: float | None = None, error: str | None = None) -> None:
        """Record the outcome of this process's trial."""
        with self.turn:
            self._tell(trial, state, value=value, error=error)

    def release(self) -> None:
        """Release this process's trial, if any, so that another process can take it."""
        if self.held is not None:
            self.held.release()
            self.held = None

    def _start(self, trial: Trial, begin: Callable[[Trial], str]) -> bool:
        """Sample a trial's missing parameters; return whether to run it: not if its processes keep dying early."""
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
        self._lock(trial.number).unlink(missing_ok=True)  # no process locks a finished trial
        self.note(self)

    def _try_lock(self, number: int) -> bool:
        """Try to acquire the lock of a trial; return whether it was free."""
        lock = FileLock(self._lock(number))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        self.held = lock
        return True

    def _lock(self, number: int) -> Path:
        return self.folder / f".{number:04d}.lock"


def _complete_last_line(storage: Path, lock: JournalFileOpenLock) -> None:
    """Remove the last line of a journal if its process was killed while writing it; its operation will be repeated."""
    if not storage.is_file():
        return
    lock.acquire()
    try:
        with storage.open("rb+") as file:
            content = file.read()
            kept, _, last = content.rpartition(b"\n")
            journal = all(part[: len(OPENING)] == OPENING[: len(part)] for part in (kept, last))
            if not last or not journal:
                return
            try:
                json.loads(last)
            except ValueError:
                warnings.warn(f"{storage}: the last line is incomplete and is removed", stacklevel=3)
                file.truncate(len(content) - len(last))
            else:
                file.write(b"\n")
    finally:
        lock.release()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Optuna's messages below warnings."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
