"""``vaekit manifold``."""

from __future__ import annotations

from typing import Annotated

import typer

from vaekit.cli.common import RunArgument, open_run
from vaekit.cli.picture_options import DimsOption, OutOption, read_dims


def manifold(
    run: RunArgument = None,
    dims: DimsOption = None,
    side: Annotated[int, typer.Option(min=1, help="Images along each axis.")] = 20,
    out: OutOption = None,
) -> None:
    """Show a plane of the latent space, decoded at equal steps of probability.

    Of more than two latents the first principal axes of the codes are taken, unless --dims names two.
    """
    typer.echo(open_run(run).pictures.manifold(dims=read_dims(dims), side=side, out=out))
