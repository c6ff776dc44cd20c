"""``vaekit resume``."""

from __future__ import annotations

from vaekit.cli.common import JsonOption, QuietOption, RunArgument, interruptible, open_run


def resume(run: RunArgument = None, quiet: QuietOption = False, json: JsonOption = False) -> None:
    """Go on with a run from its last checkpoint, bit-exactly on the CPU."""
    from vaekit.console import choose_reporter
    from vaekit.run import resume as resume_run

    reporter = choose_reporter(json=json, quiet=quiet)
    with interruptible(reporter):
        resume_run(open_run(run).path, reporter=reporter)
