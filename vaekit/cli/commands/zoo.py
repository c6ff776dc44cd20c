"""``vaekit zoo``: models from the literature."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections.abc import Sequence
from textwrap import fill, indent, shorten
from typing import TYPE_CHECKING, Annotated

import typer

from vaekit.cli.common import JsonOption, Panel

if TYPE_CHECKING:
    from vaekit.schema import ComponentSpec
    from vaekit.specs.models import ModelSpec
    from vaekit.specs.zoo import Entry

PANEL = Panel.COMPONENTS
WIDTH = 100


def command(arguments: Sequence[str]) -> tuple[typer.Typer, list[str]]:
    """Return the group of commands."""
    group = typer.Typer(invoke_without_command=True)
    group.callback()(zoo)
    group.command()(show)
    return group, list(arguments)


def zoo(context: typer.Context, as_json: JsonOption = False) -> None:
    """List models from the literature, and show them; `vaekit train --model NAME` trains one."""
    from vaekit.errors import PluginError
    from vaekit.specs.zoo import names, read

    if context.invoked_subcommand is not None:
        return
    entries = {}
    for name in names():
        try:
            entries[name] = read(name)
        except PluginError as error:  # the others are still listed
            warnings.warn(str(error), stacklevel=2)
    if as_json:
        for name, entry in entries.items():
            typer.echo(_line(name, entry))
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 1000
    longest = max(map(len, entries))
    for name, entry in entries.items():
        head = f"{name:<{longest}}  {entry.year}  "
        typer.echo(head + shorten(f"{entry.title}. {entry.about}", max(30, width - len(head)), placeholder=" …"))
    typer.echo(f"\n{len(entries)} models; vaekit zoo show NAME describes one, vaekit train --model NAME trains it")


def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A model, such as beta-tcvae.")], as_json: JsonOption = False
) -> None:
    """Show a model: its description, parts and reference, and its results in the paper and here."""
    from vaekit.specs.zoo import read

    entry = read(name)
    if as_json:
        typer.echo(_line(name, entry))
        return
    typer.secho(f"{entry.title} ({entry.year})", bold=True)
    typer.echo(fill(entry.about, WIDTH) + "\n")
    typer.echo(indent(parts_of(name, entry.after), "  ") + "\n")
    facts = {"reference": entry.reference}
    for label, measured in (("paper", entry.paper), ("vaekit", entry.ours)):
        if measured is not None:
            facts[label] = f"{measured.number} ({measured.protocol})"
    first = f"vaekit train --model {entry.after} --out RUN; " if entry.after else ""
    facts["train"] = f"{first}vaekit train --model {name}{' --init RUN' if entry.after else ''}"
    for label, text in facts.items():
        typer.echo(fill(text, WIDTH, initial_indent=f"{label:<11}", subsequent_indent=" " * 11, break_on_hyphens=False))


def _line(name: str, entry: Entry) -> str:
    """Return a model as a line of JSON."""
    return json.dumps({"name": name, **entry.model_dump(mode="json")}, ensure_ascii=False)


def parts_of(name: str, after: str | None) -> str:
    """Return a drawing of the parts of a model, each with the options that are not at their defaults."""
    from vaekit.specs.options import OptionTable
    from vaekit.specs.resolve import complete
    from vaekit.specs.zoo import base_of, read

    data = OptionTable(read(name).spec if after is None else base_of(name, read(after).spec), {}).data
    data["train"].pop("freeze", None)  # needs a run
    model = complete(data, f"the model {name!r}").model
    size = f"z ({model.latent_dim}{'' if model.latent_stride is None else f' × grid, every {model.latent_stride} pixels'})"
    chain = [
        f"encoder {_text(model.encoder)}",
        f"posterior {_text(model.posterior)}",
        size,
        f"decoder {_text(model.decoder)}",
        f"likelihood {_text(model.likelihood)}",
    ]
    lines = ["x → " + " → ".join(chain), f"prior {_text(model.prior)}"]
    if model.condition.kind != "none":
        lines.append(f"condition {_text(model.condition)}")
    return "\n".join([*lines, f"loss {_losses(model)}"])


def _losses(model: ModelSpec) -> str:
    from vaekit import roles

    covered = {slot for loss in model.loss for slot in roles.losses.get(loss.kind).declare(dict(loss)).covers}
    return " + ".join([*([] if "reconstruction" in covered else ["reconstruction"]), *map(_text, model.loss)])


def _text(component: ComponentSpec) -> str:
    """Return a component by its kind and the options that differ from their defaults."""
    from vaekit.specs.text import value_text

    fields = type(component).model_fields
    changed = [f"{key}={value_text(value)}" for key, value in component if key != "kind" and value != fields[key].default]
    return f"{component.kind}({', '.join(changed)})" if changed else component.kind
