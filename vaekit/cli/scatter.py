"""``vaekit scatter``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from vaekit.cli.common import RunArgument, open_run
from vaekit.cli.picture_options import DimsOption, OutOption, SeedOption, read_dims


class Method(StrEnum):
    """What brings codes to the plane."""

    AUTO = "auto"
    PCA = "pca"
    TSNE = "tsne"
    UMAP = "umap"


def scatter(
    run: RunArgument = None,
    *,
    method: Annotated[
        Method, typer.Option(help="For more than two latents; auto is pca. tsne needs scikit-learn, umap umap-learn.")
    ] = Method.AUTO,
    dims: DimsOption = None,
    num: Annotated[int, typer.Option(min=2, help="Most test images.")] = 2000,
    ellipses: Annotated[bool, typer.Option("--ellipses", help="Draw two standard deviations of some posteriors.")] = False,
    seed: SeedOption = 0,
    out: OutOption = None,
) -> None:
    """Show the codes of test images as points, coloured by label."""
    album = open_run(run).pictures
    typer.echo(album.scatter(method=method.value, dims=read_dims(dims), num=num, ellipses=ellipses, seed=seed, out=out))
