"""What several commands share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vaekit.cli.console import Quiet
    from vaekit.run import Run

RunArgument = Annotated[
    Path | None, typer.Argument(metavar="RUN", help="Run folder; the newest one under runs/ unless given.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print nothing.")]

LONGEST = 18
"""Characters of a type beside a flag; longer lists of choices stand in the help, which a narrow terminal breaks at words."""


def component_option(
    flags: Sequence[str],
    kind: Any,
    *,
    default: Any,
    required: bool,
    about: str,
    panel: str,
    several: bool = False,
    hidden: bool = False,
) -> Any:
    """Return the annotation by which Typer takes an option of a component or a spec: a switch, or text that specs read and check.

    Args:
        flags: What it goes by, with dashes; those of a switch get their opposites.
        kind: Its type.
        default: What it is unless given.
        required: Whether it must be given; then the default means nothing.
        about: One sentence.
        panel: Where the help shows it.
        several: Whether it may be given more than once.
        hidden: Whether the help leaves it out.
    """
    from rich.markup import escape

    from vaekit.schema import alternatives
    from vaekit.specs.text import type_text, value_text

    parts, text = alternatives(kind), type_text(kind)
    if len(text) > LONGEST and "|" in text:
        about, text = f"{about} One of {text.replace('|', ', ')}.", "choice"
    ending = "required" if required else f"default: {value_text(default) or 'nothing'}"
    chosen_later = default is None and "none" in parts  # what that means, the sentence says
    switch = bool in parts
    info = typer.Option(
        *((f"{flag}/--no-{flag[2:]}" for flag in flags) if switch else flags),
        metavar=None if switch else text,
        help=escape(about) + ("" if chosen_later else f" [dim]{escape(f'[{ending}]')}[/dim]"),
        show_default=False,
        hidden=hidden,
        rich_help_panel=panel,
    )
    taken: Any = bool if switch else list[str] if several else str
    return Annotated[taken | None, info]


def open_run(path: Path | None) -> Run:
    """Return the run of a folder, by default the newest one."""
    from vaekit.run import Run
    from vaekit.store.folder import newest_run

    return Run(newest_run() if path is None else path)


@contextmanager
def interruptible(reporter: Quiet) -> Iterator[None]:
    """Give the terminal back whatever happens; after Ctrl-C or SIGTERM say how to go on, and exit with 130."""
    try:
        with reporter:
            yield
    except KeyboardInterrupt:
        from vaekit.compute.distributed import is_first

        if is_first():  # of torchrun's processes one speaks for all
            typer.secho(f"interrupted; {_how_to_go_on(reporter)}", fg="yellow", err=True)
        raise typer.Exit(130) from None


def _how_to_go_on(reporter: Quiet) -> str:
    from vaekit.run import Run
    from vaekit.store.folder import RunFolder

    if reporter.started is None:
        return "nothing was begun"
    run = Run(RunFolder(reporter.started.run))
    if not run.folder.last.exists():
        return "no checkpoint was saved yet"
    return f"{run.path} is complete" if run.is_complete() else f"go on with: vaekit resume {run.path}"
