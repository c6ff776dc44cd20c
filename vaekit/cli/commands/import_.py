"""``vaekit import``: a command with the options of `train`, over those of the model that it imports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vaekit.cli.common import JsonOption, OutOption, Panel, QuietOption, interruptible
from vaekit.cli.options import Words, with_component_options

PANEL = Panel.EXPORT
FolderArgument = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="A folder written by save_pretrained of AutoencoderKL or VQModel.")
]


def command(arguments: Sequence[str]) -> tuple[Callable[..., None], list[str]]:
    """Return the command with the options of the components of the model, and the arguments in normal form."""
    return with_component_options(import_, arguments, without=("init",), base_of=_base)


def import_(
    spec: FolderArgument,
    *,
    out: OutOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
    base: Mapping[str, Any],
    given: Mapping[str, Any],
) -> None:
    """Import an autoencoder of the library diffusers as a run at epoch 0, with its metrics on the test set of a dataset.

    The run can be evaluated, sampled and exported, and `vaekit resume` continues its training.
    """
    from vaekit.cli.console import choose_reporter
    from vaekit.run import import_diffusers

    del base  # the folder determines it
    reporter = choose_reporter(json=json, quiet=quiet)
    with interruptible(reporter):
        import_diffusers(spec, out=out, reporter=reporter, **given)


def _base(words: Words) -> dict[str, Any]:
    """Return the plain spec of the model in the folder that is named; empty if none is."""
    from vaekit.files import local_path
    from vaekit.store.diffusers import model_of, read_config

    return {} if words.spec is None else {"model": model_of(read_config(local_path(words.spec)))}
