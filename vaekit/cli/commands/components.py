"""``vaekit components``: list components and show their options."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from textwrap import indent, shorten
from typing import Annotated

import typer

from vaekit.cli.common import Panel
from vaekit.cli.components import describe, find

PANEL = Panel.COMPONENTS


def command(arguments: Sequence[str]) -> tuple[typer.Typer, list[str]]:
    """Return the group of commands; lists lack --help, for which Typer imports pydantic, a third of the response time."""
    add_help_option = list(arguments) not in ([], ["list"])
    group = typer.Typer(invoke_without_command=True, add_help_option=add_help_option)
    group.callback()(components)
    group.command("list", add_help_option=add_help_option)(list_components)
    group.command()(show)
    return group, list(arguments)


def components(context: typer.Context) -> None:
    """List components, and show their options."""
    if context.invoked_subcommand is None:
        list_components()


def list_components() -> None:
    """List all components by role, each with its origin and a summary."""
    from vaekit.roles import REGISTRIES

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 1000
    for registry in REGISTRIES:
        typer.secho(registry.plural, bold=True)
        for kind in registry.kinds():
            head = f"  {kind:<15} {registry.origin(kind)!s:<15} "
            typer.echo(head + shorten(registry.summary(kind), max(30, width - len(head)), placeholder=" …"))


def show(name: Annotated[str, typer.Argument(metavar="NAME", help="A component, such as beta or loss:beta.")]) -> None:
    """Show a component: its description, options, reference and origin."""
    for registry, kind in find(name):
        typer.secho(f"{registry.role} {kind}", bold=True, nl=False)
        typer.echo(f"  ({registry.origin(kind)})\n")
        typer.echo(indent(describe(registry, kind), "  ") + "\n")
