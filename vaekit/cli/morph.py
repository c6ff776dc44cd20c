"""``vaekit morph``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaekit.cli.common import RunArgument, open_run
from vaekit.cli.picture_options import Way


def morph(
    run: RunArgument = None,
    way: Annotated[Way, typer.Option(help="Straight, or along great circles.")] = Way.LINEAR,
    steps: Annotated[int, typer.Option(min=1, help="Images from one class to the next.")] = 12,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The animation (gif, webp, avif); in the run folder unless given.", show_default=False),
    ] = None,
) -> None:
    """Animate a way through the most central test image of every label, and back to the first."""
    typer.echo(open_run(run).pictures.morph(path=way.value, steps=steps, out=out))
