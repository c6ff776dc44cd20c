"""``vaekit verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaekit.cli.common import Panel

PANEL = Panel.EXPORT


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="A file written by `vaekit export --onnx`.")],
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="The run it was exported from, for comparison.", show_default=False)
    ] = None,
) -> None:
    """Check that an exported ONNX file is intact, and that it agrees with the model of a run."""
    from vaekit.export.verification import verify as verify_file
    from vaekit.run import Run

    parity = verify_file(file, None if run is None else Run(run).trained())
    other = "itself over batch sizes; with --run it is compared with the model" if run is None else f"the model of {run}"
    typer.echo(f"{file} is intact; compared with {other}\n  largest difference {parity}")
