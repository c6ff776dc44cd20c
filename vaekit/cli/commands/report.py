"""``vaekit report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaekit.cli.common import Panel, RunArgument, open_run

PANEL = Panel.PICTURES


def report(
    run: RunArgument = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="The page; default: report.html in the run folder.", show_default=False),
    ] = None,
) -> None:
    """Write a self-contained page about a run: metrics, curves, pictures, latents, settings."""
    opened = open_run(run)
    from vaekit.report import write_report

    typer.echo(write_report(opened, out))
