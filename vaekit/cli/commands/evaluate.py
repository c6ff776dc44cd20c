"""``vaekit evaluate``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from vaekit.cli.common import JsonOption, Panel, RunArgument, open_run

PANEL = Panel.TRAINING


def evaluate(  # noqa: PLR0917 - Typer calls it by keywords
    run: RunArgument = None,
    samples: Annotated[
        int, typer.Option(min=0, max=1_000_000, metavar="K", help="Number of importance samples for log p(x); 0 skips it.")
    ] = 0,
    split: Annotated[str, typer.Option(metavar="train|validation|test", help="Which images.")] = "test",
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.")] = "auto",
    precision: Annotated[str, typer.Option(metavar="fp32|bf16", help="Arithmetic of the importance samples.")] = "fp32",
    as_json: JsonOption = False,
) -> None:
    """Evaluate the best weights of a run, and write the numbers to its evaluation.json; other splits to evaluation-SPLIT.json."""
    from vaekit.cli.console import evaluation_lines

    results = open_run(run).evaluate(split=split, samples=samples, device=device, precision=precision)
    typer.echo(json.dumps(results) if as_json else "\n".join(evaluation_lines(results)))
