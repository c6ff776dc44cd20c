"""``vaekit sweep``: ``train`` with some options at several values."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from vaekit.cli.common import JsonOption, QuietOption
from vaekit.cli.train import SpecArgument, declare, read_options
from vaekit.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from vaekit.training.sweep import Stacking

OverOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="OPTION=VALUES", help="An option and its values: beta=1,2,4 or seed=0..3; may be repeated.", show_default=False
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Folder of the runs, new or empty; the next number under runs/ unless given.", show_default=False
    ),
]
StackOption = Annotated[
    str | None,
    typer.Option(
        metavar="auto|on|off", help="Whether to step models together; auto does where it is faster.", show_default=False
    ),
]


def placeholder() -> None:
    """Train many models at once: one for each combination of options' values; its other flags are those of `train`."""


def command(arguments: Sequence[str]) -> tuple[Callable[..., None], list[str]]:
    """Return the command that fits its arguments, and the arguments in normal form.

    Raises:
        UsageError: A flag is unknown or ambiguous, or a component that it chooses does not exist.
    """
    options, normal = read_options(arguments, own={"over", "out", "stack"})
    own = {
        "spec": SpecArgument,
        "over": OverOption,
        "out": OutOption,
        "stack": StackOption,
        "quiet": QuietOption,
        "json": JsonOption,
    }
    return declare(_sweep, own, options), normal


def _sweep(
    *,
    spec: Path | None,
    over: list[str] | None,
    out: Path | None,
    stack: str | None,
    quiet: bool,
    json: bool,
    given: Mapping[str, Any],
) -> None:
    """Train a model for every combination of some options' values, together where that is faster.

    `vaekit sweep --loss beta --over beta=1,2,4 --over seed=0..3` trains twelve. Values that hold commas are set apart by
    semicolons: `--over "encoder.hidden=512;256,256"`. Each model gets a run folder of its own, as `train` writes it.
    """
    from vaekit.sweeps import read_over, sweep

    if stack not in (None, "auto", "on", "off"):
        raise UsageError("there is no such way to stack", given=f"--stack {stack}", expected="auto, on or off")
    pairs = [read_over(text) for text in over or ()]
    varied = dict(pairs)
    if len(varied) < len(pairs):
        raise UsageError("an option is varied twice", given=", ".join(name for name, _ in pairs))
    silent = quiet or json
    try:
        runs = sweep(
            spec,
            over=varied,
            out=out,
            stack=cast("Stacking", stack or "auto"),
            tell=(lambda line: None) if silent else typer.echo,
            **given,
        )
    except KeyboardInterrupt:
        typer.secho("interrupted; go on with `vaekit resume` of each run", fg="yellow", err=True)
        raise typer.Exit(130) from None
    file = runs[0].path.parent / "sweep.json"
    summary = json_module.loads(file.read_text("utf-8"))
    if json:
        typer.echo(json_module.dumps(summary))
    elif not quiet:
        from rich.console import Console

        console = Console(highlight=False)
        console.print(table(summary))
        console.print(f"{file}  {summary['seconds']:,.0f} s", soft_wrap=True)
    if any("error" in row for row in summary["runs"]):
        for row in summary["runs"]:
            if "error" in row:
                typer.secho(f"error: {row['run']}: {row['error']}", fg="red", err=True)
        raise typer.Exit(1)


def table(summary: Mapping[str, Any]) -> Table:
    """Lay out what ``sweep.json`` holds: a row a model, the test set's numbers in nats per image."""
    from rich.table import Table

    rows = summary["runs"]
    bound = all("bound" in row.get("test", {}).get("elbo_is", "bound") for row in rows)
    elbo, reconstruction = ("ELBO", "reconstruction") if bound else ("-(CE+KL)", "cross-entropy")
    columns = {elbo: "elbo", reconstruction: "reconstruction", "KL": "kl", "active units": "active_units"}
    shown = Table(box=None, header_style="bold")
    for name in ("run", *summary["over"], *columns):
        shown.add_column(name, justify="left" if name == "run" else "right")
    for row in rows:
        test = row.get("test")
        cells = ["diverged"] + [""] * (len(columns) - 1) if test is None else [_cell(test.get(key)) for key in columns.values()]
        shown.add_row(row["run"].partition("-")[0], *(str(value) for value in row["options"].values()), *cells)
    return shown


def _cell(value: float | int | None) -> str:
    if value is None:
        return "none"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
