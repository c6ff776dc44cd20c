"""``vaekit compare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vaekit.cli.common import JsonOption, Panel

PANEL = Panel.PICTURES


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders, or hf://user/name.")],
    num: Annotated[int, typer.Option(min=1, max=1_000_000, help="Number of images.")] = 10,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Random seed.")] = 0,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The picture (png, jpg, webp, avif).")] = Path("compare.png"),
    as_json: JsonOption = False,
) -> None:
    """Show models side by side, with the same inputs and the same noise, and their metrics in a table."""
    from vaekit.drawing.comparison import compare_runs, names_of
    from vaekit.evaluation.tables import aligned, evaluation_table, not_comparable
    from vaekit.run import Run

    opened = [Run(path) for path in runs]
    compare_runs(opened, num=num, seed=seed, out=out)
    named = names_of(opened)
    evaluations = {name: run.evaluation() or {} for name, run in named.items()}
    warning = not_comparable(evaluations)
    if as_json:
        typer.echo(json.dumps({name: {**numbers, "tags": named[name].tags} for name, numbers in evaluations.items()}))
        return
    titles, rows = evaluation_table(evaluations)
    if any(run.tags for run in opened):
        titles, rows = [*titles, "tags"], [[*row, ", ".join(named[row[0]].tags)] for row in rows]
    typer.echo("\n".join([*aligned(titles, rows), *([warning] if warning else []), "", str(out)]))
