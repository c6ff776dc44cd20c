"""``vaekit resume``."""

from __future__ import annotations

from typing import Annotated

import typer

from vaekit.cli.commands.sweep import follow
from vaekit.cli.common import JsonOption, Panel, QuietOption, RunArgument, interruptible

PANEL = Panel.TRAINING


def resume(
    run: RunArgument = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute; default: the run's device.", show_default=False),
    ] = None,
    allow_changed_data: Annotated[
        bool, typer.Option("--allow-changed-data", help="Continue although the data have changed since.")
    ] = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Resume a run from its last checkpoint, bit-exactly on the CPU; or finish a sweep, given its folder."""
    if run is not None and (run / "sweep.json").is_file():
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
    from vaekit.run import resume as resume_run
    from vaekit.store.folder import newest_run

    reporter = choose_reporter(json=json, quiet=quiet)
    with interruptible(reporter):
        resume_run(newest_run() if run is None else run, device=device, reporter=reporter, allow_changed_data=allow_changed_data)
