"""``vaekit embed``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from vaekit.cli.common import DataArgument, DeviceOption, FitOption, Panel, RunArgument, SplitOption, open_run

if TYPE_CHECKING:
    from vaekit.data.specs import Fit

PANEL = Panel.EXPORT
DEFAULT = "codes.parquet"


def embed(  # noqa: PLR0917 - Typer calls it by keywords
    run: RunArgument = None,
    data: DataArgument = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"A .parquet or .npz table, or a .npy file of the codes alone; default: {DEFAULT} in the run folder.",
            show_default=False,
        ),
    ] = None,
    split: SplitOption = None,
    sample: Annotated[bool, typer.Option("--sample", help="Write a sample from each posterior instead of its mean.")] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Random seed; default: the run's.", show_default=False)
    ] = None,
    fit: FitOption = None,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Examples encoded at once.")] = 256,
    device: DeviceOption = "auto",
) -> None:
    """Write the codes of examples as a table, one row per example.

    The columns are `row` (the position in the data), `z` (the code, a list of D numbers) and, where available, `file`, `label`,
    `class_name`, `std`, `kl` and `kl_per_latent`, in nats.

    Folders of images and .npy files may be larger than memory.
    """
    opened = open_run(run)
    path, num = opened.embed_to(
        opened.path / DEFAULT if out is None else out,
        data,
        split=split,
        sample=sample,
        seed=seed,
        fit=cast("Fit | None", fit),
        batch_size=batch_size,
        device=device,
    )
    typer.echo(f"{path}\n  {num:,} rows")
