"""The border between a command and its user: every exception becomes a sentence that says what is wrong and what to do."""

from __future__ import annotations

import re
import traceback

import typer

from vaekit.errors import PluginError, VaekitError, plain, reason_of
from vaekit.files import REMEDIES
from vaekit.roles import plugin_at

NO_MEMORY = re.compile(r"(allocate|enough|out of) memory|bad.alloc|multiplication overflow", re.IGNORECASE)
"""The messages of torch when memory runs out; on a CPU, they come in a plain RuntimeError."""
TOO_LARGE = re.compile(r"overflow", re.IGNORECASE)
"""The messages of torch for a number that does not fit into 64 bits."""


def explain(error: Exception) -> VaekitError:
    """Return what an exception means to the user of a command; an error of vaekit explains itself."""
    if isinstance(error, VaekitError):
        return error
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and NO_MEMORY.search(plain(error))):
        return VaekitError(
            "out of memory",
            given=plain(error) or None,
            remedy="use a smaller --batch-size, a smaller model, or fewer images",
        )
    if (found := plugin_at(error)) is not None:
        role, plugin = found
        return PluginError(
            f"the {role} {plugin.kind!r} of plugin {plugin} failed: {reason_of(error)}",
            given=_location(error),
            remedy=f"run `vaekit plugins check {role}:{plugin.kind}`, and report the failure to the plugin's author; "
            "--debug shows the traceback",
        )
    if isinstance(error, OSError) and error.errno is not None:
        file = "" if error.filename is None else f": {plain(error.filename)}"
        return VaekitError(f"{plain(error.strerror)}{file}", remedy=REMEDIES.get(error.errno))
    if isinstance(error, OverflowError) or (isinstance(error, ValueError | RuntimeError) and TOO_LARGE.search(plain(error))):
        return VaekitError("a number is too large", given=plain(error), remedy="use a smaller one")
    return VaekitError(
        f"vaekit failed: {reason_of(error)}",
        given=_location(error),
        remedy="run the command again with --debug to see the traceback, and report it as a bug",
    )


def _location(error: Exception) -> str:
    """Return where an exception was raised."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return f"{last.filename}, line {last.lineno}, in {last.name}"


def report(error: VaekitError) -> None:
    """Print what went wrong, without a traceback."""
    summary, _, details = str(error).partition("\n")
    typer.secho(f"error: {summary}", fg="red", bold=True, err=True)
    if details:
        typer.echo(details, err=True)
