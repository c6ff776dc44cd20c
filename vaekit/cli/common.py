"""Code shared by several commands."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from vaekit.errors import UsageError

if TYPE_CHECKING:
    from vaekit.cli.console import Quiet
    from vaekit.evaluation.features import FeatureRequest
    from vaekit.nn.features import NetworkName
    from vaekit.run import Run

RunArgument = Annotated[
    Path | None,
    typer.Argument(metavar="RUN", help="Run folder, or hf://user/name; default: the newest one under runs/.", show_default=False),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="The run folder, new or empty; default: the next number under runs/.", show_default=False
    ),
]
DataArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA",
        help="A folder of images, an array file, or the name of a dataset; default: the data of the run.",
        show_default=False,
    ),
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        metavar="train|validation|test", help="Which split, for data that have splits; default: test.", show_default=False
    ),
]
FitOption = Annotated[
    str | None,
    typer.Option(
        metavar="crop|pad|stretch", help="How to fit image files of another size; default: as in training.", show_default=False
    ),
]
DeviceOption = Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print nothing.")]


class Panel(StrEnum):
    """The panels of ``vaekit --help``, in order."""

    TRAINING = "Training"
    PICTURES = "Pictures"
    EXPORT = "Export"
    COMPONENTS = "Components"


@contextmanager
def imports() -> Iterator[None]:
    """Import torch within the context without searching for garbage, and exclude everything it creates from later searches.

    It stays until the process ends, and searching it takes 0.15 s during the import, and 0.2 s on exit. Nothing happens if torch
    has been imported before.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if "torch" in sys.modules:
            gc.freeze()
        gc.enable()


def open_run(path: Path | None) -> Run:
    """Return the run of a folder; default: the newest run."""
    with imports():
        from vaekit.run import Run
        from vaekit.store.folder import newest_run

    return Run(newest_run() if path is None else path)


def feature_request(
    network: str | None,
    weights: Path | None,
    linear: Path | None = None,
    num_samples: int | None = None,
    size: int | None = None,
) -> FeatureRequest | None:
    """Return the features that flags choose; None if they choose none.

    Raises:
        UsageError: The network or its weights are missing.
    """
    if network is not None and weights is not None:
        from vaekit.evaluation.features import FeatureRequest

        return FeatureRequest(cast("NetworkName", network), weights, linear, num_samples, size or FeatureRequest.size)
    if any(option is not None for option in (network, weights, linear, num_samples, size)):
        raise UsageError(
            "comparing images by features needs a network and its weights", expected="--features NETWORK --features-weights FILE"
        )
    return None


def without_args(doc: str | None) -> tuple[str, str]:
    """Return the parts of a docstring before and after ``Args:``, or where that would be."""
    args = r"^Args:\n(?:[ \t]+.*\n?|\n)*|(?=^(?:References|Example):$)"
    before, *after = re.split(args, cleandoc(doc or "") + "\n", maxsplit=1, flags=re.MULTILINE)
    return before.strip(), "\n".join(after).strip()


@contextmanager
def interruptible(reporter: Quiet) -> Iterator[None]:
    """Restore the terminal in any case; after Ctrl-C or SIGTERM, say how to resume and exit with 130."""
    try:
        with reporter:
            yield
    except KeyboardInterrupt:
        raise typer.Exit(interrupted(_how_to_resume(reporter))) from None


def interrupted(remark: str = "") -> int:
    """Report that the command was interrupted and return the exit code, 130. Further Ctrl-Cs are ignored while it exits.

    Args:
        remark: What to add, such as how to resume.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.environ.get("RANK", "0") == "0":  # only one of torchrun's processes prints
        typer.secho(f"interrupted; {remark}" if remark else "interrupted", fg="yellow", err=True)
    return 130


def _how_to_resume(reporter: Quiet) -> str:
    from vaekit.run import Run
    from vaekit.store.folder import RunFolder

    if reporter.started is None:
        return "nothing was started"
    run = Run(RunFolder(reporter.started.run))
    if not run.folder.last.exists():
        return "no checkpoint was saved yet"
    return f"{run.path} is complete" if run.is_complete() else f"resume with: vaekit resume {run.path}"
