"""``vaekit plugins``: list plugins and whether they work, check a component, create a package."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent
from typing import Annotated

import typer

from vaekit.roles import REGISTRIES

app = typer.Typer(help="List plugins, check components, create a package.", invoke_without_command=True)


@app.callback()
def plugins(context: typer.Context) -> None:
    """List plugins, check components, create a package."""
    if context.invoked_subcommand is None:
        list_plugins()


@app.command("list")
def list_plugins() -> None:
    """List installed plugins: distribution, version, components, and whether each can be used. Imports them all."""
    from vaekit.plugins import SWITCH, Plugin, enabled, installed
    from vaekit.registry import Registry
    from vaekit.specs import zoo

    if not enabled():
        typer.echo(f"plugins are disabled by --no-plugins or {SWITCH}=0")
        return
    found: dict[str, list[tuple[Registry[object] | None, Plugin]]] = {}
    for registry in REGISTRIES:
        for plugin in (p for claims in installed(registry.group).values() for p in claims):
            found.setdefault(str(plugin), []).append((registry, plugin))
    for plugin in zoo.announced():
        found.setdefault(str(plugin), []).append((None, plugin))
    for distribution, components in sorted(found.items()):
        typer.secho(distribution, bold=True)
        for role, plugin in components:
            state, reason = zoo.state(plugin) if role is None else role.state(plugin)
            colour = {"ready": "green", "shadowed": "yellow", "broken": "red"}[state]
            name = "model" if role is None else role.role
            typer.echo(f"  {name:<11}{plugin.kind:<16}" + typer.style(f"{state:<9}", fg=colour), nl=False)
            typer.echo(indent(reason, " " * 38).lstrip())
    if not found:
        typer.echo("no plugins are installed; `vaekit plugins new NAME --role encoder` creates one")


@app.command()
def check(name: Annotated[str, typer.Argument(metavar="NAME", help="A component, such as cnn or decoder:cnn.")]) -> None:
    """Run the checks of vaekit.testing on a component with its default options; exit with 1 if one fails."""
    from vaekit.cli.components import find
    from vaekit.testing import ConformanceError, checks

    failed = 0
    for registry, kind in find(name):
        typer.secho(f"{registry.role} {kind}", bold=True, nl=False)
        typer.echo(f"  ({registry.origin(kind)})")
        registry.spec(kind)  # a plugin that cannot be used is one error, not one per check
        for each in checks(registry.role):
            try:
                each(kind)
            except ConformanceError as error:
                failed += 1
                typer.echo(typer.style("  failed  ", fg="red") + each.__name__)
                typer.echo(indent(str(error), "          "))
            else:
                typer.echo(typer.style("  passed  ", fg="green") + each.__name__)
    if failed:
        raise typer.Exit(1)


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The component's name, such as acme_unet.")],
    role: Annotated[
        str,
        typer.Option(metavar="ROLE", help=f"One of {', '.join(registry.role for registry in REGISTRIES)}."),
    ] = "encoder",
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to write it; default: vaekit-NAME.", show_default=False)
    ] = None,
) -> None:
    """Create a package that adds a component; it can be installed, and passes its tests, as is."""
    from vaekit.scaffold import write_package

    folder = write_package(name, role, out)
    typer.echo(
        f"{folder}/\n" + "\n".join(f"  {path.relative_to(folder)}" for path in sorted(folder.rglob("*")) if path.is_file())
    )
    typer.echo(f"\nnext:\n  pip install -e {folder}\n  pytest {folder}\n  vaekit components show {role}:{name}")
