"""``vaekit push``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaekit.cli.common import Panel, open_run
from vaekit.errors import UsageError

PANEL = Panel.EXPORT


def push(  # noqa: PLR0917 - Typer calls it by keywords
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    name: Annotated[str | None, typer.Argument(metavar="USER/NAME", help="The repository, created if it does not exist.")] = None,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="The branch, created if it does not exist; default: main.")
    ] = None,
    token: Annotated[
        str | None, typer.Option(help="Token with write access; default: HF_TOKEN, or that of `hf auth login`.", metavar="TOKEN")
    ] = None,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Visibility of a new repository; default: its owner's setting.")
    ] = None,
    commit_message: Annotated[str | None, typer.Option(metavar="TEXT", help="Commit message.")] = None,
    licence: Annotated[
        str | None, typer.Option(metavar="ID", help="Licence of the model, such as cc-by-4.0; default: none is stated.")
    ] = None,
    export: Annotated[
        list[str] | None,
        typer.Option(metavar="FORMAT", help="Decoders to include, or none; default: onnx, and playground if installed."),
    ] = None,
    reconstructions: Annotated[
        bool, typer.Option("--reconstructions", help="Include the last picture of reconstructions, which shows data.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write what would be uploaded to a folder, and upload nothing.")
    ] = None,
) -> None:
    """Upload a run to the Hugging Face Hub: model, spec, model card, metrics, pictures and decoder.

    `hf://USER/NAME` can then be used in place of a run folder, in `vaekit.load` and in all commands. Local paths, loggers, data
    and the training state are not uploaded.
    """
    formats = None if export is None else [kind for kind in export if kind != "none"]
    opened = open_run(run)
    if out is not None:
        typer.echo(opened.save_pretrained(out, repo=name, licence=licence, exporters=formats, reconstructions=reconstructions))
        return
    if name is None:
        raise UsageError("no repository was given", expected="vaekit push RUN USER/NAME, or --out FOLDER")
    url = opened.push_to_hub(
        name,
        revision=revision,
        token=token,
        private=private,
        commit_message=commit_message,
        licence=licence,
        exporters=formats,
        reconstructions=reconstructions,
    )
    typer.echo(url)
