"""The directive ``commands``: every command of the command line, with every option and its help."""

from __future__ import annotations

import re
import tempfile
from contextlib import chdir
from itertools import groupby
from pathlib import Path
from typing import Any

import typer
from docutils import nodes
from reading import escaped
from rich.markup import render
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from vaekit.cli.discovery import Command, list_commands


def click_command(command: Command) -> Any:
    """Return a command as Typer builds it for ``--help`` in a folder whose newest run has the default model."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        run = Path("runs") / "0001-digits-mlp"
        run.mkdir(parents=True)
        (run / "spec.yaml").write_text("{}\n", "utf-8")
        target, _ = command.prepare(["--help"])
    if isinstance(target, typer.Typer):
        return typer.main.get_command(target)
    app = typer.Typer(add_completion=False)
    app.command(command.name)(target)
    return typer.main.get_command(app)


def reference(name: str, command: Any, mark: str, known: frozenset[str] = frozenset()) -> list[str]:
    """Return the section of a command, and those of its subcommands.

    Args:
        name: The name.
        command: The command, as Typer builds it.
        mark: The character under its heading.
        known: Descriptions of options of ``vaekit train``, which are not repeated.
    """
    context = command.make_context(name, [], resilient_parsing=True)
    usage = " ".join(["vaekit", name, *command.collect_usage_pieces(context)])
    about = escaped(render(command.help or "").plain)
    lines = [f".. _command-{name.replace(' ', '-')}:", "", f"vaekit {name}", mark * (len(name) + 7), "", *about.splitlines(), ""]
    lines += [".. code-block:: text", "", f"   {usage}", "", f".. program:: vaekit {name}", ""]
    every = {described(each, context): panel_of(each) for each in command.params if not each.hidden}
    shown = {text: panel for text, panel in every.items() if text not in known}
    for panel in dict.fromkeys(shown.values()):
        lines += [f".. rubric:: {panel}", ""] if panel else []
        lines += [text for text, of in shown.items() if of == panel]
    if len(shown) < len(every):
        lines += ["The other options are those of :ref:`vaekit train <command-train>`.", ""]
    for child, subcommand in getattr(command, "commands", {}).items():
        lines += reference(f"{name} {child}", subcommand, "~")
    return lines


def panel_of(parameter: Any) -> str:
    """Return the heading above an option in the help; empty for the command's own options and arguments."""
    return getattr(parameter, "rich_help_panel", None) or ""


def described(parameter: Any, context: Any) -> str:
    """Return an option or an argument, with its help and its default."""
    head, text = parameter.get_help_record(context)
    about = parameter.help or ""
    remark = text.removeprefix(about).strip()  # "[default: 36]", which Rich would read as markup
    heads = re.split(r" / |; ", head)
    return f".. option:: {', '.join(heads)}\n\n   {escaped(f'{render(about).plain} {remark}'.strip())}\n"


class Commands(SphinxDirective):
    """Every command, in the order of ``vaekit --help``."""

    def run(self) -> list[nodes.Node]:
        lines, every = [], list_commands()
        (train,) = (click_command(command) for command in every if command.name == "train")
        context = train.make_context("train", [], resilient_parsing=True)
        known = frozenset(described(each, context) for each in train.params if not each.hidden)
        for panel, members in groupby(every, key=lambda command: command.panel):
            lines += [str(panel), "=" * len(panel), ""]
            for command in members:
                without = frozenset() if command.name == "train" else known
                lines += reference(command.name, click_command(command), "-", without)
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
