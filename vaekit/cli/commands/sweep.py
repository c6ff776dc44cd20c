"""``vaekit sweep``: ``train`` with some options at several values."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from vaekit.cli.common import JsonOption, Panel, QuietOption, interrupted
from vaekit.cli.options import SpecArgument, with_component_options
from vaekit.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from vaekit.sweeps.grouping import Stacking
    from vaekit.training.progress import Reporter


PANEL = Panel.TRAINING


def _option(metavar: str, about: str, panel: str | None = None) -> Any:
    return typer.Option(metavar=metavar, help=about, show_default=False, rich_help_panel=panel)


OVER = "An option and its values: beta=1,2,4 or seed=0..3, in a search also lr=1e-4..1e-2:log; may be repeated."
SEARCH = "Search"


def command(arguments: Sequence[str]) -> tuple[Callable[..., None], list[str]]:
    """Return the command with the options of the components that its arguments choose, and the arguments in normal form."""
    return with_component_options(sweep, arguments)


def sweep(
    spec: SpecArgument = None,
    *,
    over: Annotated[list[str] | None, _option("OPTION=VALUES", OVER)] = None,
    out: Annotated[
        Path | None, _option("FOLDER", "Folder of the runs, new or empty; default: the next number under runs/.")
    ] = None,
    stack: Annotated[str | None, _option("auto|on|off", "Train models together; auto does so if it is faster.")] = None,
    search: Annotated[
        str | None,
        _option("optuna", "Choose values based on earlier trials, in any number of processes, instead of trying all.", SEARCH),
    ] = None,
    storage: Annotated[Path | None, _option("FILE", "The study, shared by all processes.", SEARCH)] = None,
    trials: Annotated[int | None, _option("int", "Total number of trials across all processes.", SEARCH)] = None,
    metric: Annotated[
        str | None,
        _option("NAME|NAME:max", "Validation metric to minimise, or to maximise; default: elbo, maximised.", SEARCH),
    ] = None,
    prune: Annotated[
        str | None, _option("on|off", "Stop trials that are worse than the median of the others; default: on.", SEARCH)
    ] = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
    base: Mapping[str, Any],
    given: Mapping[str, Any],
) -> None:
    """Train a model for every combination of some options' values, together if that is faster; or search for the best values.

    `vaekit sweep --loss beta --over beta=1,2,4 --over seed=0..3` trains twelve models. Separate values that contain commas with
    semicolons: `--over "encoder.hidden=512;256,256"`; schedules need none: `--over "beta=1,linear(0,1,5)"`. Each model gets its
    own run folder, as `train` writes it.

    With `--search optuna --storage FILE --trials 50`, values are chosen from lists and ranges based on earlier trials:
    `--over lr=1e-4..1e-2:log --over latent_dim=2..64 --over encoder=mlp,cnn`. Start the same command any number of times, on any
    machines that share the files, to work on the same study. Start it again to continue.
    """
    from vaekit.sweeps.space import read_over

    del spec  # it was read as `base` to find the options
    for flag, value, choices in (
        ("stack", stack, ("auto", "on", "off")),
        ("search", search, ("optuna",)),
        ("prune", prune, ("on", "off")),
    ):
        if value is not None and value not in choices:
            raise UsageError(f"unknown value of --{flag}", given=f"--{flag} {value}", expected=", ".join(choices))
    pairs = [read_over(text) for text in over or ()]
    varied = dict(pairs)
    if len(varied) < len(pairs):
        raise UsageError("an option is varied twice", given=", ".join(name for name, _ in pairs))
    if search is None:
        from vaekit.sweeps.grid import sweep as run_sweep

        _reject("only a search (--search optuna) takes", storage=storage, trials=trials, metric=metric, prune=prune)
        ways = cast("Stacking", stack or "auto")
        follow(
            lambda reporter: run_sweep(base, over=varied, out=out, stack=ways, reporter=reporter, **given)[0].path.parent,
            quiet=quiet,
            json=json,
        )
        return

    from vaekit.evaluation.metrics import Criterion
    from vaekit.sweeps.search import Plan, work

    _reject("a search trains one model at a time; it does not take", stack=stack)
    if storage is None or trials is None:
        raise UsageError("a search needs --storage and --trials", expected="for example --storage study.journal --trials 50")
    plan = Plan(base, given, varied, Criterion.read(metric or "elbo"), prune=prune != "off")
    follow(lambda reporter: work(plan, storage, trials, out, reporter), quiet=quiet, json=json)


def _reject(why: str, **flags: object) -> None:
    """Reject flags that would be ignored."""
    if found := [f"--{name}" for name, value in flags.items() if value is not None]:
        raise UsageError(f"{why} {', '.join(found)}")


def follow(train: Callable[[Reporter], Path], *, quiet: bool, json: bool) -> None:
    """Train the models of a sweep and show progress and results; exit with 1 if one failed, and with 130 after Ctrl-C.

    Args:
        train: Trains the models, given a reporter; returns the folder of the sweep.
        quiet: Whether to print nothing.
        json: Whether to print ``sweep.json`` only.
    """
    from vaekit.cli.console import choose_reporter
    from vaekit.sweeps.record import RECORD, read_record

    try:
        folder = train(choose_reporter(quiet=quiet or json))
    except KeyboardInterrupt as stop:
        raise typer.Exit(interrupted(_how_to_resume(stop))) from None
    record = read_record(folder)
    if json:
        typer.echo(json_module.dumps(record))
    elif not quiet:
        from rich.console import Console

        console = Console(highlight=False)
        console.print(sweep_table(record))
        console.print(f"{folder / RECORD}  {record['seconds']:,.0f} s", soft_wrap=True)
    failed = [row for row in record["runs"] if "error" in row]
    for row in failed:
        typer.secho(f"error: {row['run']}: {row['error']}", fg="red", err=True)
    if failed and ("metric" not in record or len(failed) == len(record["runs"])):  # a search learns from failures
        raise typer.Exit(1)


def _how_to_resume(stop: KeyboardInterrupt) -> str:
    from vaekit.sweeps.record import read_record

    if not stop.args:
        return "nothing was started"
    folder = Path(stop.args[0])
    return "the same command continues the search" if "metric" in read_record(folder) else f"resume with: vaekit resume {folder}"


def sweep_table(record: Mapping[str, Any]) -> Table:
    """Lay out ``sweep.json``: a row per model, its metrics on the validation set, then on the test set; a search's best is bold.

    Models are chosen by the validation set, so only the first test metric is shown.
    """
    from rich.table import Table

    from vaekit.evaluation.metrics import comparable_metrics, metric_of
    from vaekit.sweeps.record import short_text

    rows = record["runs"]
    metrics = comparable_metrics({row["run"]: row.get("test", {}) for row in rows})
    compared = [metric_of(record["metric"].partition(":")[0])] if "metric" in record else []
    known = {key for row in rows for key in row.get("validation", {})} - {metric.key for metric in compared}
    columns = [("validation", metric) for metric in metrics if metric.key in known]
    columns += [("test", metric) for metric in metrics[:1]]
    titles = [metric.label if part == "validation" else f"{part} {metric.label}" for part, metric in columns]
    titles = [*(metric.label for metric in compared), *titles]
    shown = Table(box=None, header_style="bold", caption="Validation metrics, except where marked.", caption_justify="left")
    for name in ("run", *record["over"], *titles):
        word = max(map(len, name.split()))  # headings wrap between words only
        shown.add_column(name, justify="left" if name == "run" else "right", overflow="fold", min_width=word)
    for row in rows:
        cells = [metric.text(row.get("value"), digits=2) for metric in compared]
        cells += [metric.text(row[part].get(metric.key), digits=2) for part, metric in columns] if "test" in row else [_note(row)]
        values = map(short_text, row["options"].values())
        shown.add_row(row["run"].partition("-")[0], *values, *cells, style="bold" if row["run"] == record.get("best") else None)
    return shown


def _note(row: Mapping[str, Any]) -> str:
    """Return why a run has no metrics."""
    if "pruned" in row:
        return "pruned"
    return "failed" if "error" in row else "not done"
