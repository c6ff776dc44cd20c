"""The run folder: what lies where, and how it comes to be."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vaekit._version import __version__
from vaekit.errors import CheckpointError, UsageError, VaekitError
from vaekit.files import write_text
from vaekit.specs.models import RunSpec, dump_spec

RUNS = Path("runs")


class RunFolder:
    """Paths within a run folder.

    ``spec.yaml`` the resolved spec; ``model.safetensors`` the best weights; ``metrics.jsonl`` a JSON object per epoch;
    ``checkpoints/`` last and best; ``reconstructions/`` and ``samples/`` PNG grids of chosen epochs; ``training.gif`` samples
    from the first epoch to the last; ``evaluation.json`` the test set's numbers.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.spec = self.path / "spec.yaml"
        self.model = self.path / "model.safetensors"
        self.metrics = self.path / "metrics.jsonl"
        self.last = self.path / "checkpoints" / "last.safetensors"
        self.best = self.path / "checkpoints" / "best.safetensors"
        self.lock = FileLock(self.path / "checkpoints" / ".lock")
        self.frames = self.path / "checkpoints" / "frames"
        self.reconstructions = self.path / "reconstructions"
        self.samples = self.path / "samples"
        self.gif = self.path / "training.gif"
        self.evaluation = self.path / "evaluation.json"

    @classmethod
    def create(cls, spec: RunSpec, out: str | Path | None = None) -> RunFolder:
        """Make the folder of a new run, ``out`` or the next number under ``runs/``, and lock it.

        Raises:
            UsageError: ``out`` exists and is not empty, cannot be written, or another process is training in it.
        """
        path = Path(out) if out is not None else None
        if path is not None and not str(path).isprintable():
            raise UsageError(
                "the name of a run folder holds a control character", given=repr(str(path)), remedy="choose another --out"
            )
        try:
            if path is None:
                path = next_numbered(RUNS, f"{spec.data.dataset.kind}-{spec.model.encoder.kind}")
            elif path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise _exists(path)
            folder = cls(path)
            for needed in (folder.frames, folder.reconstructions, folder.samples):
                needed.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot write the run folder {path}", given=error.strerror, remedy="choose another --out") from None
        folder.hold()
        if folder.spec.exists():  # another process made it since the check above
            folder.release()
            raise _exists(folder.path)
        folder.write_spec(spec)
        return folder

    def write_spec(self, spec: RunSpec) -> None:
        """Write ``spec.yaml``."""
        write_text(self.spec, f"# vaekit {__version__}; `vaekit train {self.spec}` repeats this run\n{dump_spec(spec)}")

    def discard(self) -> None:
        """Remove the folder of a run that could not begin."""
        shutil.rmtree(self.path, ignore_errors=True)

    def hold(self) -> None:
        """Keep other processes from training this run until `release`, or until this process ends.

        Raises:
            UsageError: Another process trains it.
        """
        if self.lock.is_locked:
            return
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise UsageError(f"another process is training {self.path}", remedy="let it, or end it first") from None

    def release(self) -> None:
        """Let other processes train this run."""
        with contextlib.suppress(OSError):  # where open files cannot be removed
            Path(self.lock.lock_file).unlink()
        self.lock.release()

    def has_begun(self) -> bool:
        """Whether there is anything to resume; a model without a checkpoint counts, as training again would overwrite it."""
        return self.last.exists() or self.model.exists()

    def require(self) -> RunFolder:
        """Return the folder itself.

        Raises:
            CheckpointError: It is no run folder.
        """
        if not self.spec.is_file():
            raise CheckpointError(
                f"{self.path} is not a run folder",
                given="no spec.yaml in it" if self.path.is_dir() else "no such folder",
                remedy="name one, or train one: `vaekit train`",
            )
        return self

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add a line to ``metrics.jsonl``, and flush it to disk."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the records of ``metrics.jsonl``, epoch by epoch; a line cut short by a kill is left out."""
        if not self.metrics.is_file():
            return []
        records = []
        for line in self.metrics.read_text("utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return records

    def cut_metrics(self, epochs: int) -> None:
        """Keep the first ``epochs`` records: those that a checkpoint knows of."""
        if not self.metrics.exists():
            return
        kept = [json.dumps(record) + "\n" for record in self.read_metrics() if record["epoch"] <= epochs]
        write_text(self.metrics, "".join(kept))


def _exists(path: Path) -> UsageError:
    return UsageError(
        f"{path} exists already; a run never overwrites one",
        remedy=f"choose another --out, or finish it with `vaekit resume {path}` if it is not complete",
    )


def newest_run(root: Path = RUNS) -> Path:
    """Return the run folder under ``root`` that was made last.

    Raises:
        CheckpointError: There is none.
    """
    found = [spec.parent for spec in root.glob("*/spec.yaml")]
    if not found:
        raise CheckpointError(f"there is no run under {root}/", remedy="train one: `vaekit train`, or name a run folder")
    return max(found, key=lambda path: (path / "spec.yaml").stat().st_mtime_ns)


def check_space(path: Path, needed: int) -> None:
    """Refuse to start what the disk cannot hold.

    Raises:
        VaekitError: Fewer than ``needed`` bytes are free where ``path`` lies.
    """
    free = shutil.disk_usage(path).free
    if free < needed:
        raise VaekitError(
            f"the disk under {path} is too full for the checkpoints",
            given=f"{free / 1e6:.0f} MB free",
            expected=f"about {needed / 1e6:.0f} MB",
            remedy="free some, or choose another --out",
        )


def next_numbered(root: Path, suffix: str) -> Path:
    """Make the folder of the next number under ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    while True:
        taken = [int(match[1]) for path in root.iterdir() if (match := re.match(r"(\d+)-", path.name))]
        path = root / f"{max(taken, default=0) + 1:04d}-{suffix}"
        try:
            path.mkdir()
        except FileExistsError:  # another run took the number
            continue
        return path
