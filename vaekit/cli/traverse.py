"""``vaekit traverse``."""

from __future__ import annotations

from typing import Annotated

import typer

from vaekit.cli.common import RunArgument, open_run
from vaekit.cli.picture_options import DimsOption, FitOption, MovingOutOption, read_dims


def traverse(
    run: RunArgument = None,
    *,
    dims: DimsOption = None,
    num: Annotated[int, typer.Option(min=1, help="How many of the most informative latents, where --dims is not given.")] = 10,
    steps: Annotated[int, typer.Option(min=2, help="Images along each.")] = 9,
    sigmas: Annotated[float, typer.Option(min=0, help="How far to both sides, in standard deviations of the prior.")] = 3.0,
    quantiles: Annotated[
        bool, typer.Option("--quantiles", help="From the 1 % to the 99 % quantile of the test images' codes instead.")
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE", help="At whose code the others stay; the first test image's unless given.", show_default=False
        ),
    ] = None,
    fit: FitOption = None,
    out: MovingOutOption = None,
) -> None:
    """Show what each latent does, the most informative first, as a picture and as an animation."""
    album = open_run(run).pictures
    for path in album.traverse(
        dims=read_dims(dims),
        num=num,
        steps=steps,
        sigmas=sigmas,
        quantiles=quantiles,
        base=base,
        fit=None if fit is None else fit.value,
        out=out,
    ):
        typer.echo(path)
