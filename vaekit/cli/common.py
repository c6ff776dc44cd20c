"""What several commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vaekit.console import Quiet
    from vaekit.run import Run

RunArgument = Annotated[
    Path | None, typer.Argument(metavar="RUN", help="Run folder; the newest one under runs/ unless given.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print nothing.")]


def open_run(path: Path | None) -> Run:
    """Return the run of a folder, by default the newest one."""
    from vaekit.run import Run
    from vaekit.training.folder import newest_run

    return Run(newest_run() if path is None else path)


@contextmanager
def interruptible(reporter: Quiet) -> Iterator[None]:
    """Give the terminal back whatever happens; after Ctrl-C say how to go on, and exit with 130."""
    try:
        with reporter:
            yield
    except KeyboardInterrupt:
        typer.secho(f"interrupted; {_how_to_go_on(reporter)}", fg="yellow", err=True)
        raise typer.Exit(130) from None


def _how_to_go_on(reporter: Quiet) -> str:
    from vaekit.training.folder import RunFolder

    if reporter.started is None:
        return "nothing was begun"
    folder = RunFolder(reporter.started.run)
    return f"go on with: vaekit resume {folder.path}" if folder.last.exists() else "no checkpoint was saved yet"
