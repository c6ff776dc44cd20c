"""Options that several commands for pictures share."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vaekit.errors import UsageError


class Fit(StrEnum):
    """How a picture of another size is brought to the model's."""

    CROP = "crop"
    PAD = "pad"
    STRETCH = "stretch"


class Way(StrEnum):
    """From one code to another."""

    LINEAR = "linear"
    SPHERICAL = "spherical"


FitOption = Annotated[
    Fit | None,
    typer.Option(help="How pictures of another size are brought to the model's; refused unless given.", show_default=False),
]
OutOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The picture (png, jpg, webp, avif); in the run folder unless given.", show_default=False),
]
MovingOutOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The file: a picture (png, jpg) or an animation (gif, webp, avif).", show_default=False),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the draws.")]
DimsOption = Annotated[str | None, typer.Option(metavar="D,D,…", help="Latents by number, counted from 0.", show_default=False)]


def read_dims(text: str | None) -> list[int] | None:
    """Read ``3,5`` as numbers.

    Raises:
        UsageError: It is something else.
    """
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError("latents are given by number", given=text, expected="numbers and commas, as 3,5") from None


def split_run(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Take a run folder from the front of what a command was given; None stands for the newest one."""
    from vaekit.store.folder import RunFolder

    named = bool(words) and RunFolder(words[0]).spec.is_file()
    return (Path(words[0]), list(words[1:])) if named else (None, list(words))
