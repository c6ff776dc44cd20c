"""The run folder: its layout, its creation and its lock."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from vaekit import hub
from vaekit._version import __version__
from vaekit.errors import CheckpointError, UsageError, VaekitError
from vaekit.files import (
    file_names,
    lines_from_end,
    local_path,
    printable_path,
    remove_leftovers,
    replaceable,
    write_text,
    writing,
)
from vaekit.specs.models import RunSpec, dump_spec, spec_file

RUNS = Path("runs")


class RunFolder:
    """The paths within a run folder.

    ``spec.yaml``: the resolved spec; ``model.safetensors``: the best weights; ``metrics.jsonl``: a JSON object per epoch;
    ``checkpoints/``: last and best; ``reconstructions/`` and ``samples/``: PNG grids of chosen epochs; ``training.gif``: samples
    from the first epoch to the last; ``evaluation.json``: the test metrics; ``threshold.json``: the score above which
    an example is anomalous.

    A folder in shared form (see `vaekit.store.shared`) holds a run without its training state. Its spec is
    ``config.json``, and ``losses.safetensors`` completes the best weights of the objective, if its losses have any.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = local_path(path)
        self.spec = spec_file(self.path)
        self.model = self.path / "model.safetensors"
        self.metrics = self.path / "metrics.jsonl"
        self.last = self.path / "checkpoints" / "last.safetensors"
        self.best = self.path / "checkpoints" / "best.safetensors"
        self.frames = self.path / "checkpoints" / "frames"
        self.reconstructions = self.path / "reconstructions"
        self.samples = self.path / "samples"
        self.losses = self.path / hub.LOSSES
        self.gif = self.path / "training.gif"
        self.evaluation = self.path / "evaluation.json"
        self.threshold = self.path / "threshold.json"

    @cached_property
    def lock(self) -> BaseFileLock:
        """The lock of the process that trains the run."""
        return FileLock(self.path / "checkpoints" / ".lock")

    @classmethod
    def create(cls, spec: RunSpec, out: str | Path | None = None) -> RunFolder:
        """Create the folder of a new run, and lock it.

        Args:
            spec: The resolved spec, which is written to ``spec.yaml``.
            out: The path of the folder; default: the next number under ``runs/``, with the name of the run.

        Raises:
            UsageError: ``out`` exists and is not empty, cannot be written, or another process is training in it.
        """
        path = printable_path(out) if out is not None else None
        try:
            if path is None:
                name = spec.train.name or f"{spec.data.dataset.kind}-{spec.model.encoder.kind}"
                path = next_numbered(RUNS, *file_names([name]))
            elif not _is_free(path):
                raise _exists(path)
            folder = cls(path)
            for needed in (folder.frames, folder.reconstructions, folder.samples):
                needed.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"cannot write the run folder {path or RUNS}", given=error.strerror, remedy="choose another --out"
            ) from None
        folder.acquire()
        if folder.spec.exists():  # another process created it since the check above
            folder.release()
            raise _exists(folder.path)
        try:
            folder.write_spec(spec)
        except BaseException:
            folder.discard()
            raise
        return folder

    def write_spec(self, spec: RunSpec) -> None:
        """Write ``spec.yaml``."""
        write_text(self.spec, f"# vaekit {__version__}; `vaekit train {self.spec}` repeats this run\n{dump_spec(spec)}")

    def discard(self) -> None:
        """Remove the folder of a run that could not start."""
        shutil.rmtree(self.path, ignore_errors=True)

    def acquire(self) -> None:
        """Lock the run, so that no other process trains it until `release` or the end of this process; tidy up after a kill.

        Raises:
            UsageError: Another process is training the run.
        """
        if self.lock.is_locked:
            return
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise UsageError(f"another process is training {self.path}", remedy="wait for it to finish, or stop it") from None
        remove_leftovers(self.path)

    def release(self) -> None:
        """Unlock the run for other processes."""
        with contextlib.suppress(OSError):  # some systems cannot remove open files
            Path(self.lock.lock_file).unlink()
        self.lock.release()

    @property
    def is_locked(self) -> bool:
        """Whether a process trains the run, as far as this machine can tell."""
        if self.lock.is_locked or not Path(self.lock.lock_file).exists():
            return self.lock.is_locked
        try:
            self.lock.acquire(timeout=0)
        except (Timeout, OSError) as error:
            return isinstance(error, Timeout)
        self.lock.release()
        return False

    @property
    def is_shared(self) -> bool:
        """Whether it is in the form of shared runs."""
        return self.spec.name == hub.CONFIG

    def has_begun(self) -> bool:
        """Whether there is anything to resume: a checkpoint, or a file written after the first one, which must not be lost."""
        return self.last.exists() or self.evaluation.exists() or len(self.read_metrics()) > 1

    def require(self) -> RunFolder:
        """Return the folder itself.

        Raises:
            CheckpointError: It is not a run folder.
        """
        if not self.spec.is_file():
            raise CheckpointError(
                f"{self.path} is not a run folder",
                given="a folder without spec.yaml" if self.path.is_dir() else "a folder that does not exist",
                remedy="pass the folder of a run, or start one: `vaekit train`",
            )
        return self

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Append a line to ``metrics.jsonl`` and flush it to disk.

        Raises:
            VaekitError: The file cannot be written, for example because the disk is full.
        """
        with writing(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the records of ``metrics.jsonl``, epoch by epoch, omitting a line cut short by a kill."""
        if not self.metrics.is_file():
            return []
        lines = self.metrics.read_bytes().splitlines()
        records = [_record(line) for line in lines]
        damaged = [number for number, record in enumerate(records, 1) if record is None]
        if damaged and damaged != [len(lines)]:  # a kill can cut short the last line only
            warnings.warn(f"{self.metrics}: damaged lines are ignored: {', '.join(map(str, damaged[:5]))}", stacklevel=2)
        return [record for record in records if record is not None]

    def cut_metrics(self, epochs: int) -> None:
        """Keep only the records of the first ``epochs`` epochs, those that a checkpoint includes; those kept are not read."""
        if not self.metrics.exists():
            return
        with writing(replaceable(self.metrics)), self.metrics.open("rb+") as file:
            lines = ((position, line, _record(line)) for position, line in lines_from_end(file))
            kept = (each[:2] for each in lines if each[2] is not None and each[2]["epoch"] <= epochs)
            position, line = next(kept, (0, b""))
            file.truncate(position + len(line))
            if line and not line.endswith(b"\n"):
                file.seek(0, os.SEEK_END)
                file.write(b"\n")
            file.flush()
            os.fsync(file.fileno())


def _record(line: bytes) -> dict[str, Any] | None:
    """Return the record in a line of ``metrics.jsonl``; None if it is damaged."""
    try:
        record = json.loads(line)
        return {**record, "epoch": int(record["epoch"])}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def model_file(path: str | Path, **fetching: Any) -> Path:
    """Return the model file named by the user: the file itself, or that of a run folder or of a run on the Hub.

    Args:
        path: The path or name that the user gives.
        fetching: Options of `vaekit.hub.local_run`.

    Raises:
        CheckpointError: The path is a folder, but not a run folder.
        HubError: The run on the Hub cannot be fetched.
    """
    path = hub.local_run(path, **fetching)
    return RunFolder(path).require().model if path.is_dir() else path


def is_run(path: str | Path) -> bool:
    """Whether a word from the user is a run folder or the name of a run on the Hub."""
    return hub.location(path) is not None or RunFolder(path).spec.is_file()


def _is_free(path: Path) -> bool:
    """Whether a run can be created at a path: it is free, or holds only the remains of a process killed at its start."""
    if not path.is_dir():
        return not (path.exists() or path.is_symlink())
    own = {RunFolder(path).lock.lock_file, *(str(path / name) for name in ("checkpoints", "reconstructions", "samples"))}
    left = [file for file in path.rglob("*") if str(file) not in own and file != RunFolder(path).frames]
    return all(file.parent == path and re.fullmatch(r"\.spec\.yaml\.\d+\.tmp", file.name) for file in left)


def _exists(path: Path) -> UsageError:
    return UsageError(
        f"{path} already exists, and a run never overwrites another",
        remedy=f"choose another --out or, if the run is incomplete, finish it with `vaekit resume {path}`",
    )


def newest_run(root: Path = RUNS) -> Path:
    """Return the most recent run folder under ``root``.

    Raises:
        CheckpointError: There is none.
    """
    found = [spec.parent for spec in root.glob("*/spec.yaml")]
    if not found:
        raise CheckpointError(f"no run found under {root}/", remedy="pass the folder of a run, or start one: `vaekit train`")
    return max(found, key=lambda path: (path / "spec.yaml").stat().st_mtime_ns)


def check_space(path: Path, needed: int) -> None:
    """Check that the disk has enough free space.

    Raises:
        VaekitError: Fewer than ``needed`` bytes are free on the disk that contains ``path``.
    """
    free = shutil.disk_usage(path).free
    if free < needed:
        raise VaekitError(
            f"the disk that contains {path} is too full for the checkpoints",
            given=f"{free / 1e6:.0f} MB free",
            expected=f"about {needed / 1e6:.0f} MB",
            remedy="free some space, or choose another --out",
        )


def next_numbered(root: Path, suffix: str) -> Path:
    """Create the next numbered folder under ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    while True:
        taken = [int(match[1]) for path in root.iterdir() if (match := re.match(r"(\d+)-", path.name))]
        path = root / f"{max(taken, default=0) + 1:04d}-{suffix}"
        try:
            path.mkdir()
        except FileExistsError:  # another run took the number
            continue
        return path
