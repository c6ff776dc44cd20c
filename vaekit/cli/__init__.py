"""The command line: ``vaekit COMMAND``. Commands import what they need when they run, so that help appears at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vaekit._version import __version__
from vaekit.cli.border import explain, report
from vaekit.cli.common import imports, interrupted
from vaekit.cli.discovery import find_command, list_commands
from vaekit.errors import reason_of
from vaekit.plugins import without_plugins


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 for success, 1 for an error, 2 for wrong usage, 130 if interrupted.

    Args:
        argv: Arguments after the program's name; default: those of the process.

    Raises:
        Exception: With ``--debug``, the error that made the command fail.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug, no_plugins = "--debug" in arguments, "--no-plugins" in arguments
    arguments = [argument for argument in arguments if argument not in {"--debug", "--no-plugins"}]
    before = signal.getsignal(signal.SIGINT)
    try:
        with warnings.catch_warnings(), without_plugins() if no_plugins else nullcontext():
            warnings.showwarning = lambda message, *_, **__: typer.secho(f"warning: {message}", fg="yellow", err=True)
            code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader closed the pipe
        code = 1
    except KeyboardInterrupt:
        code = interrupted()
    except Exception as error:
        if debug:
            raise
        explained = explain(error)
        report(explained)
        code = explained.exit_code
    finally:
        if argv is not None and before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)
    _discard_output()
    return code


def _discard_output() -> None:
    """Discard what cannot be written to stdout, so that Python's own flush at exit does not fail as well."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str]) -> int:
    """Build the requested command and run it; without one, build a list of all commands."""
    if arguments[:1] == ["--"]:
        del arguments[0]
    command = find_command(arguments[0]) if arguments else None
    app = typer.Typer(
        cls=_Commands,
        add_help_option=command is None,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    app.callback()(_vaekit)
    if command is None:
        _list_commands(app)
    else:
        with imports():  # of the components whose options the command has
            target, arguments[1:] = command.prepare(arguments[1:])
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=command.name)
        else:
            app.command(command.name)(target)
    try:
        app(args=arguments, prog_name="vaekit")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


class _Commands(TyperGroup):
    """The commands; what click would report as "Aborted" and what would end the process is reported by vaekit."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; Ctrl-C ends it with 130, and an ``exit()`` in other code, such as a plugin, is an error."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(interrupted()) from None
        except SystemExit as stop:
            raise RuntimeError(f"exit({stop.code!r}) was called").with_traceback(stop.__traceback__) from None
        except EOFError as error:
            raise RuntimeError(reason_of(error)).with_traceback(error.__traceback__) from None


def _list_commands(app: typer.Typer) -> None:
    """Add all commands to an app by name and summary, for its help and its suggestions."""
    from rich.markup import escape

    for command in list_commands():
        app.command(command.name, help=escape(command.summary), rich_help_panel=command.panel)(lambda: None)


def _vaekit(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of every error; may appear anywhere.")] = False,
    no_plugins: Annotated[bool, typer.Option("--no-plugins", help="Disable installed plugins; may appear anywhere.")] = False,
) -> None:
    """Variational autoencoders from interchangeable parts."""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vaekit {__version__}")
        raise typer.Exit
