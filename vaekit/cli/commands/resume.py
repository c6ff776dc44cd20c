"""``vaekit resume``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vaekit.cli.commands.sweep import follow
from vaekit.cli.common import JsonOption, Panel, QuietOption, RunArgument, imports, interruptible
from vaekit.errors import UsageError

PANEL = Panel.TRAINING
LIMITS = "New limits"


def _limit(metavar: str, about: str) -> Any:
    return typer.Option(metavar=metavar, help=f"{about} Default: the run's.", show_default=False, rich_help_panel=LIMITS)


def resume(  # noqa: PLR0917 - Typer calls it by keywords
    run: RunArgument = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute; default: the run's device.", show_default=False),
    ] = None,
    allow_changed_data: Annotated[
        bool, typer.Option("--allow-changed-data", help="Continue even if the data have changed.")
    ] = False,
    epochs: Annotated[str | None, _limit("int", "Total number of epochs.")] = None,
    max_steps: Annotated[str | None, _limit("int|none", "Total number of steps.")] = None,
    max_time: Annotated[str | None, _limit("30m|none", "Time after which training pauses again.")] = None,
    patience: Annotated[str | None, _limit("int|none", "Number of epochs without improvement after which the run ends.")] = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Resume a run from its last checkpoint, bit-exactly on the CPU; or finish a sweep, given its folder.

    `vaekit resume RUN --epochs 60` extends a finished run. With `--schedule constant` or `step`, it becomes what a run of 60
    epochs would have been. A cosine, which had fallen to 0, then spans 60 epochs: the learning rate rises again, and the result
    differs from such a run. The new limits are stored in the run's spec.yaml.
    """
    given = {"epochs": epochs, "max_steps": max_steps, "max_time": max_time, "patience": patience}
    limits = {name: value for name, value in given.items() if value is not None}
    if run is not None and (run / "sweep.json").is_file():
        if limits:
            raise UsageError("the limits of a sweep cannot be changed", given=", ".join(limits), remedy="resume one of its runs")
        from vaekit.sweeps.grid import resume_sweep

        follow(
            lambda reporter: (
                resume_sweep(run, device=device, reporter=reporter, allow_changed_data=allow_changed_data)[0].path.parent
            ),
            quiet=quiet,
            json=json,
        )
        return

    from vaekit.cli.console import choose_reporter

    with imports():
        from vaekit.run import resume as resume_run
        from vaekit.store.folder import newest_run

    reporter = choose_reporter(json=json, quiet=quiet)
    with interruptible(reporter):
        folder = newest_run() if run is None else run
        resume_run(folder, device=device, reporter=reporter, allow_changed_data=allow_changed_data, **limits)
