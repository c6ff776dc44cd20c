"""Commands in separate processes, forked from a server that has imported torch, so that they start within milliseconds."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import pkgutil
import re
import resource
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from safetensors import safe_open

SMALL = shlex.split(
    "--dataset array --dataset.path ../images.npy --encoder mlp --encoder.hidden 8 --decoder.hidden 8 --latent-dim 2 "
    "--batch-size 16 --epochs 4 --threads 1 --device cpu --compile off"
)
"""Options of a run that takes a tenth of a second, in a folder next to the images."""

LONGEST = 30.0
"""Timeout in seconds after which a process is considered hung."""
LONGEST_MESSAGE = 5_000
CLOCKS = {"seconds", "images_per_second", "epoch_seconds"}
PRELOADED = shlex.split(
    "pytest torch._dynamo torch.onnx onnx onnxruntime onnxscript PIL.PngImagePlugin PIL.GifImagePlugin rich.console "
    "vaekit.run vaekit.testing vaekit.report.page vaekit.cli.console vaekit.cli.options"
)
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUTF8": "1", "VAEKIT_PLUGINS": "0", "NO_COLOR": "1"}
"""The environment of the server and the commands; one thread, since threads do not survive a fork."""

_numbers = itertools.count()


class Done(NamedTuple):
    """The outcome of a command."""

    code: int
    out: str
    err: str

    def clean(self) -> Done:
        """Check that the command ended cleanly: successfully, by a signal, or with a short error and no traceback."""
        said = f"exit code {self.code}\n{self.out[-2000:]}\n{self.err[-2000:]}"
        assert "Traceback (most recent call last)" not in self.out + self.err, said
        assert len(self.err) < LONGEST_MESSAGE, said
        assert self.code in {0, 1, 2, 130} or self.code < 0, said
        assert self.code in {0, 130} or self.code < 0 or self.err or self.out, said
        return self


class Job:
    """A running command.

    Args:
        process: Its process.
        log: The files of its output, without their suffixes.
    """

    def __init__(self, process: Any, log: Path) -> None:
        self.process, self.log = process, log
        process.start()

    def begun(self) -> None:
        """Wait until the command itself is running, not just its process."""
        wait_for(lambda: self.log.with_suffix(".err").exists() or not self.process.is_alive())

    def send(self, signum: int) -> None:
        """Send a signal if the process is still running."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signum)

    def finish(self) -> Done:
        """Wait for the end."""
        self.process.join(LONGEST)
        hangs = self.process.is_alive()
        if hangs:
            self.process.kill()
            self.process.join()
        out, err = (self.log.with_suffix(suffix).read_text("utf-8", errors="replace") for suffix in (".out", ".err"))
        assert not hangs, f"no end after {LONGEST:g} s\n{out[-2000:]}\n{err[-2000:]}"
        return Done(self.process.exitcode, out, err)


class Commands:
    """Runs ``vaekit`` commands.

    Args:
        folder: Where their output is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)
        with mock.patch.dict(os.environ, ENVIRONMENT):
            forkserver.ensure_running()

    def start(self, *arguments: str, cwd: Path, **more: Any) -> Job:
        """Start a command.

        Args:
            arguments: Its arguments, after ``vaekit``.
            cwd: The folder in which it runs.
            more: ``limits`` of its process by their names in `resource`; ``site``, a folder of installed plugins; ``dies_in``, a
                function, as ``module:name``, whose call kills the process; ``fresh``, whether the interpreter starts from
                nothing, as it does for users.
        """
        log = self.folder / str(next(_numbers))
        return Job(self.context.Process(target=_run, args=(arguments, cwd, log), kwargs=more), log)

    def __call__(self, *arguments: str, cwd: Path, **more: Any) -> Done:
        """Run a command to its end, which must be clean."""
        return self.start(*arguments, cwd=cwd, **more).finish().clean()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in a separate process; return its result."""
        with self.context.Pool(1) as pool:
            return pool.apply_async(function, arguments).get(timeout=40 * LONGEST)


class Campaign:
    """A part of the campaign.

    Args:
        scale: Its size; 1 is the whole.
        commands: Runs commands.
        folder: A folder with images.
        record: Records a property of the test.
    """

    def __init__(self, scale: float, commands: Commands, folder: Path, record: Callable[[str, object], None]) -> None:
        self.scale, self.commands, self.folder, self.record = scale, commands, folder, record

    def size(self, cases: int) -> int:
        """Scale a number of cases."""
        return max(1, round(cases * self.scale))

    def place(self, name: object) -> Path:
        """Make a folder next to the images."""
        (self.folder / str(name)).mkdir()
        return self.folder / str(name)

    def tally(self, what: str, total: int, /, **counts: int) -> None:
        """Record the counts of a test for the summary."""
        parts = "".join(f", {name.replace('_', ' ')} {number:,}" for name, number in sorted(counts.items()))
        self.record("campaign", f"{what}: {total:,}{parts}")


def _run(
    arguments: list[str],
    cwd: Path,
    log: Path,
    *,
    limits: Mapping[str, int] | None = None,
    site: Path | None = None,
    dies_in: str | None = None,
    fresh: bool = False,
) -> None:
    from vaekit import plugins
    from vaekit.__main__ import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until its traceback would be noticed
    os.chdir(cwd)
    if site is not None:
        sys.path.insert(0, str(site))
        os.environ[plugins.SWITCH] = "1"
        plugins.refresh()
    if dies_in is not None:
        owner, name = re.fullmatch(r"(.*)[.:](\w+)", dies_in).groups()  # type: ignore[union-attr]
        setattr(pkgutil.resolve_name(owner), name, lambda *_, **__: os._exit(9))
    for number, suffix in enumerate((".out", ".err"), 1):
        os.dup2(os.open(log.with_suffix(suffix), os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if limits:  # without bytecode, whose incomplete files would be read by other commands
        sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
    for limit, value in (limits or {}).items():
        resource.setrlimit(getattr(resource, limit), (value, value))
    if fresh:
        os.execv(sys.executable, [sys.executable, "-m", "vaekit", *arguments])
    sys.argv = ["vaekit", *arguments]
    sys.exit(main())


def wait_for(happened: Callable[[], bool], seconds: float = LONGEST) -> None:
    """Wait for a condition, up to a number of seconds."""
    end = time.monotonic() + seconds
    while not happened() and time.monotonic() < end:
        time.sleep(0.0005)


def listed(text: str) -> list[str]:
    """Return the items of a text, separated by ``|`` and the ends of lines."""
    return [item for item in re.split(r" \| |\n\s*", text.strip()) if item]


def contents(run: Path) -> dict[str, Any]:
    """The contents of a run folder, without times."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in run.rglob("*") if path.is_file() and path.name != ".lock"):
        name = path.relative_to(run).as_posix()
        if path.name == "metrics.jsonl":
            records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            found[name] = [{key: record[key] for key in record.keys() - CLOCKS} for record in records]
        elif path.name == "last.safetensors":
            with safe_open(path, "np") as file:
                metadata = json.loads(file.metadata()["vaekit-3"])
                tensors = {key: file.get_tensor(key).tobytes() for key in file.keys()}  # noqa: SIM118 - not a mapping
            del metadata["digest"], metadata["state"]["seconds"]
            found[name] = metadata, tensors
        else:
            found[name] = path.read_bytes()
    return found
