"""``vaekit sample``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaekit.cli.common import RunArgument, open_run
from vaekit.cli.picture_options import SeedOption


def sample(
    run: RunArgument = None,
    *,
    num: Annotated[int, typer.Option(min=1, help="Number of images.")] = 36,
    seed: SeedOption = 0,
    temperature: Annotated[float, typer.Option(min=0, help="Factor on the prior's noise; below 1 less varied.")] = 1.0,
    separate: Annotated[bool, typer.Option("--separate", help="Write a file for each image instead of a grid.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER",
            help="The picture (png, jpg, webp, avif), or the folder of separate ones; in the run folder unless given.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Draw images from the prior."""
    typer.echo(open_run(run).pictures.sample(num, seed=seed, temperature=temperature, separate=separate, out=out))
