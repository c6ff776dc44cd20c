"""``vaekit interpolate``."""

from __future__ import annotations

from typing import Annotated

import typer

from vaekit.cli.common import open_run
from vaekit.cli.picture_options import FitOption, MovingOutOption, Way, split_run
from vaekit.errors import UsageError


def interpolate(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN] A B",
            help="Run folder (the newest one unless given), then two images: files or numbers of test images.",
        ),
    ],
    way: Annotated[
        Way | None, typer.Option(help="Straight, or along a great circle; both unless given.", show_default=False)
    ] = None,
    steps: Annotated[int, typer.Option(min=2, help="Images on the way, the ends counted.")] = 9,
    fit: FitOption = None,
    out: MovingOutOption = None,
) -> None:
    """Show the way from one image's code to another's."""
    run, ends = split_run(words)
    if len(ends) != 2:
        raise UsageError("two images are needed", given=" ".join(words), expected="vaekit interpolate [RUN] A B")
    album = open_run(run).pictures
    typer.echo(
        album.interpolate(
            *ends, path=None if way is None else way.value, steps=steps, fit=None if fit is None else fit.value, out=out
        )
    )
