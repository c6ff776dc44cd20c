"""``vaekit reconstruct``."""

from __future__ import annotations

from typing import Annotated

import typer

from vaekit.cli.common import open_run
from vaekit.cli.picture_options import FitOption, OutOption, split_run
from vaekit.errors import UsageError


def reconstruct(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN] IMAGES...",
            help="Run folder (the newest one unless given), then images, folders of images, or numbers of test images.",
        ),
    ],
    fit: FitOption = None,
    out: OutOption = None,
) -> None:
    """Encode and decode images, and show them with their reconstructions below."""
    run, images = split_run(words)
    if not images:
        raise UsageError("no images were given", expected=f"vaekit reconstruct {words[0]} IMAGES…, files or folders")
    typer.echo(open_run(run).pictures.reconstruct(images, fit=None if fit is None else fit.value, out=out))
