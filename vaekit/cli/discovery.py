"""The commands there are: a file of `vaekit.cli.commands` each, and one for every picture."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import typer

from vaekit.cli import commands, pictures
from vaekit.cli.common import Panel
from vaekit.roles import pictures as registry

Target = Callable[..., None] | typer.Typer


class Command(NamedTuple):
    """A command as ``vaekit --help`` lists it.

    Args:
        name: What it is called.
        panel: Where the help lists it.
        summary: One line.
        prepare: Takes the arguments that follow the name; returns the function or group to call, and the arguments for it.
    """

    name: str
    panel: Panel
    summary: str
    prepare: Callable[[Sequence[str]], tuple[Target, list[str]]]


def find_command(name: str) -> Command | None:
    """Return the command of a name, or None. Nothing else is imported than the command."""
    if name in _files():
        return _of_file(name)
    return _of_picture(name) if name in registry else None


def list_commands() -> list[Command]:
    """Return all commands, by panel and name. Pictures are not imported."""
    files = _files()
    for kind in files & {*registry.kinds()}:
        warnings.warn(f"the picture {kind!r} of {registry.origin(kind)} has no command: vaekit's own is called so", stacklevel=2)
    found = [*map(_of_file, files), *(_of_picture(kind) for kind in registry.kinds() if kind not in files)]
    return sorted(found, key=lambda command: ([*Panel].index(command.panel), command.name))


def _files() -> set[str]:
    return {module.name for module in pkgutil.iter_modules(commands.__path__)}


def _of_file(name: str) -> Command:
    module = importlib.import_module(f"{commands.__name__}.{name}")
    function = getattr(module, name)
    target: Target = getattr(module, "app", function)
    prepare = getattr(module, "command", lambda arguments: (target, list(arguments)))
    return Command(name, getattr(module, "PANEL", Panel.COMPONENTS), (function.__doc__ or "").partition("\n")[0], prepare)


def _of_picture(kind: str) -> Command:
    return Command(kind, Panel.PICTURES, registry.summary(kind).replace("``", "`"), partial(pictures.command, kind))
