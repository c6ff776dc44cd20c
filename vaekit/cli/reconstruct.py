"""``vaekit reconstruct``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vaekit.cli.common import open_run
from vaekit.errors import UsageError


class Fit(StrEnum):
    """How a picture of another size is brought to the model's."""

    CROP = "crop"
    PAD = "pad"
    STRETCH = "stretch"


def reconstruct(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[RUN] IMAGES...", help="Run folder (the newest one unless given), then images or folders of images."
        ),
    ],
    fit: Annotated[
        Fit | None,
        typer.Option(help="How pictures of another size are brought to the model's; refused unless given.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="The picture; in the run folder unless given.", show_default=False)
    ] = None,
) -> None:
    """Encode and decode images, and write them with their reconstructions below as a PNG grid."""
    from vaekit.training.folder import RunFolder

    named = RunFolder(paths[0]).spec.is_file()
    run, images = (paths[0], paths[1:]) if named else (None, paths)
    if not images:
        raise UsageError("no images were given", expected=f"vaekit reconstruct {paths[0]} IMAGES…, files or folders")
    typer.echo(open_run(run).reconstruct(images, fit=None if fit is None else fit.value, out=out))
