"""``vaekit components``: what there is, and what it can be told."""

from __future__ import annotations

import difflib
import re
import shutil
import sys
from inspect import cleandoc
from textwrap import indent, shorten, wrap
from typing import TYPE_CHECKING, Annotated

import typer

from vaekit.errors import UnknownComponentError

if TYPE_CHECKING:
    from vaekit.registry import Registry


def build(*, add_help_option: bool) -> typer.Typer:
    """Return the group of commands."""
    app = typer.Typer(invoke_without_command=True, add_help_option=add_help_option)
    app.callback()(components)
    app.command("list", add_help_option=add_help_option)(list_components)
    app.command()(show)
    return app


def components(context: typer.Context) -> None:
    """List components, and show their options."""
    if context.invoked_subcommand is None:
        list_components()


def list_components() -> None:
    """List every component by role: name, where it comes from, what it is."""
    from vaekit.roles import REGISTRIES

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 1000
    for registry in REGISTRIES:
        typer.secho(registry.plural, bold=True)
        for kind in registry.kinds():
            head = f"  {kind:<15} {registry.origin(kind)!s:<15} "
            typer.echo(head + shorten(registry.summary(kind), max(30, width - len(head)), placeholder=" …"))


def show(name: Annotated[str, typer.Argument(metavar="NAME", help="A component, as beta or loss:beta.")]) -> None:
    """Show a component: what it is, its options, its reference, where it comes from."""
    for registry, kind in find(name):
        typer.secho(f"{registry.role} {kind}", bold=True, nl=False)
        typer.echo(f"  ({registry.origin(kind)})\n")
        typer.echo(indent(describe(registry, kind), "  ") + "\n")


def find(name: str) -> list[tuple[Registry[object], str]]:
    """Return all components of a name, or the one of ``role:name``.

    Raises:
        UnknownComponentError: There is none; the message suggests a near match.
    """
    from vaekit.roles import REGISTRIES

    role, _, kind = name.rpartition(":")
    found = [(registry, kind) for registry in REGISTRIES if role in ("", registry.role) and kind in registry]
    if not found:
        names = [n for registry in REGISTRIES for kind in registry.kinds() for n in (kind, f"{registry.role}:{kind}")]
        near = difflib.get_close_matches(name, names, n=3)
        raise UnknownComponentError(
            f"no component is called {name!r}",
            remedy=f"did you mean {' or '.join(dict.fromkeys(near))}?" if near else "see `vaekit components list`",
        )
    return found


def describe(registry: Registry[object], kind: str) -> str:
    """Write what a component's docstring says, its options with their types and defaults in the place of ``Args``."""
    from vaekit.specs.text import type_text, value_text

    spec = registry.spec(kind)
    about = re.split(r"^Args:\n(?:[ \t]+.*\n?|\n)*", cleandoc(registry.get(kind).__doc__ or "") + "\n", flags=re.MULTILINE)
    lines = []
    for name, field in spec.model_fields.items():
        if name != "kind":
            default = "required" if field.is_required() else f"default {value_text(field.default)}"
            lines.append(f"--{registry.role}.{name.replace('_', '-')} {type_text(field.annotation)}  ({default})")
            lines += wrap(field.description or "", 96, initial_indent="    ", subsequent_indent="    ")
    options = "\n".join(["Options:", *(f"  {line}" for line in lines)]) if lines else "No options."
    before, after = about[0].strip(), "\n".join(about[1:]).strip()
    return "\n\n".join(part for part in (before, options, after) if part)
