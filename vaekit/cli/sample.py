"""``vaekit sample``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaekit.cli.common import RunArgument, open_run


def sample(
    run: RunArgument = None,
    num: Annotated[int, typer.Option(min=1, help="Number of images.")] = 36,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 0,
    temperature: Annotated[float, typer.Option(min=0, help="Factor on the prior's noise; below 1 less varied.")] = 1.0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="The picture; in the run folder unless given.", show_default=False)
    ] = None,
) -> None:
    """Draw images from the prior and write them as a PNG grid."""
    typer.echo(open_run(run).sample(num, seed=seed, temperature=temperature, out=out))
