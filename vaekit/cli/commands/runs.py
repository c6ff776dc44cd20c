"""``vaekit runs``: a table of runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vaekit.cli.common import JsonOption, Panel

if TYPE_CHECKING:
    from vaekit.store.summary import Summary

PANEL = Panel.TRAINING
MOST_SKIPPED = 5
"""How many skipped folders are named at most."""
NO_BOUND = "*"
FOOTNOTE = f"{NO_BOUND} not a lower bound of log p(x), but of it up to a constant, or -(cross-entropy + KL)"


def runs(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of runs, or a sweep.")] = Path("runs"),
    conditions: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="KEY=VALUE",
            help="Only matching runs, such as dataset=mnist, 'elbo>-90', lr=1e-3 or 'name=base*'; may be repeated.",
        ),
    ] = None,
    sort: Annotated[
        str, typer.Option(metavar="KEY", help="Sort by a column, metric or option, such as elbo, epoch:max or beta; best first.")
    ] = "date",
    as_json: JsonOption = False,
) -> None:
    """List runs with their data, parts, ELBO and state, including those of sweeps in the folder.

    KEY is a column, a metric of the evaluation such as `psnr`, or an option of the run such as `lr` or `encoder.hidden`.
    """
    from vaekit.evaluation.tables import aligned
    from vaekit.store.summary import Filter, choose, find_runs

    filters = [Filter.read(text) for text in conditions or ()]
    found, skipped = find_runs(folder)
    chosen = choose(found, filters=filters, sort=sort)
    if as_json:
        for run in chosen:
            typer.echo(json.dumps(run.row, ensure_ascii=False))
    else:
        titles, rows = _table(chosen, folder)
        footnote = [FOOTNOTE] if any(_mark(run.evaluation.get("elbo_is")) for run in chosen) else []
        typer.echo("\n".join([*aligned(titles, rows), "", *footnote, f"{len(chosen)} of {len(found)} runs"]))
    for path, reason in [*skipped.items()][:MOST_SKIPPED]:
        sentence = f"it {reason}" if reason.startswith("is ") else reason
        typer.secho(f"skipped {path}: {sentence}", fg="yellow", err=True)
    if len(skipped) > MOST_SKIPPED:
        typer.secho(f"skipped {len(skipped) - MOST_SKIPPED} more", fg="yellow", err=True)


def _table(chosen: list[Summary], root: Path) -> tuple[list[str], list[list[str]]]:
    """Return the titles and rows of the table; columns without values are left out."""
    rows = [_cells(run.row, root) for run in chosen]
    columns = [title for title in _cells({}, root) if title not in OPTIONAL or any(row[title] != "-" for row in rows)]
    return columns, [[row[title] for title in columns] for row in rows]


def _mark(elbo_is: str | None) -> str:
    """Return the mark of an ELBO that is not a bound on log p(x)."""
    return "" if elbo_is is None or ("bound" in elbo_is and "constant" not in elbo_is) else NO_BOUND


OPTIONAL = frozenset({"name", "tags"})


def _cells(row: dict[str, Any], root: Path) -> dict[str, str]:
    """Return the cells of a run by title."""
    path = Path(row.get("run", ""))
    own = row.get("name") if row.get("name") != path.name else None
    mark = _mark(row.get("elbo_is"))
    numbers = {key: "-" if row.get(key) is None else f"{row[key]:,.2f}{mark}" for key in ("validation_elbo", "elbo")}
    parts = [str(row.get(key) or "-") for key in ("encoder", "decoder")]
    return {
        "run": str(path.relative_to(root)) if path.is_relative_to(root) else str(path),
        "name": own or "-",
        "dataset": str(row.get("dataset") or "-"),
        "encoder": parts[0],
        "decoder": parts[1],
        "loss": "+".join(row.get("loss") or ["-"]),
        "latents": str(row.get("latent_dim") or "-"),
        "epochs": f"{row.get('epoch')}/{row.get('epochs')}",
        "ELBO, validation": numbers["validation_elbo"],
        "test": numbers["elbo"],
        "date": (row.get("date") or "-")[:16].replace("T", " "),
        "state": str(row.get("state")),
        "tags": ",".join(row.get("tags") or []) or "-",
    }
