"""``vaekit variations``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaekit.cli.common import RunArgument, open_run
from vaekit.cli.picture_options import SeedOption


def variations(
    run: RunArgument = None,
    per_class: Annotated[int, typer.Option(min=1, help="Variations of each label.")] = 10,
    seed: SeedOption = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The folder; in the run folder unless given.", show_default=False)
    ] = None,
) -> None:
    """Encode a test image of each label and decode draws from its posterior: LABEL/I.png and grid.png."""
    typer.echo(open_run(run).pictures.variations(per_class=per_class, seed=seed, out=out))
