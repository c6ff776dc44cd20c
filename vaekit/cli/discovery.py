"""How commands are found: every file of `vaekit.cli.commands` is one, and so is every picture."""

from __future__ import annotations

import importlib
import keyword
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
        name: The name.
        panel: The panel of the help.
        summary: One line.
        prepare: Maps the arguments after the name to the function or group to call, and its arguments.
    """

    name: str
    panel: Panel
    summary: str
    prepare: Callable[[Sequence[str]], tuple[Target, list[str]]]


def find_command(name: str) -> Command | None:
    """Return the command with a name, or None. Only that command is imported."""
    if name in _files():
        return _file_command(name)
    return _picture_command(name) if name in registry else None


def list_commands() -> list[Command]:
    """Return all commands, sorted by panel and name. Pictures are not imported."""
    files = _files()
    for kind in files & {*registry.kinds()}:
        warnings.warn(
            f"the picture {kind!r} of {registry.origin(kind)} has no command, because vaekit has a command of that name",
            stacklevel=2,
        )
    found = [*map(_file_command, files), *(_picture_command(kind) for kind in registry.kinds() if kind not in files)]
    return sorted(found, key=lambda command: ([*Panel].index(command.panel), command.name))


def _files() -> set[str]:
    """Return the names of the commands that are files; a file named after a Python keyword has a trailing underscore."""
    return {module.name.removesuffix("_").replace("_", "-") for module in pkgutil.iter_modules(commands.__path__)}


def _file_command(name: str) -> Command:
    own = f"{name}_" if keyword.iskeyword(name) else name.replace("-", "_")
    module = importlib.import_module(f"{commands.__name__}.{own}")
    function = getattr(module, own)
    target: Target = getattr(module, "app", function)
    prepare = getattr(module, "command", lambda arguments: (target, list(arguments)))
    return Command(name, getattr(module, "PANEL", Panel.COMPONENTS), (function.__doc__ or "").partition("\n")[0], prepare)


def _picture_command(kind: str) -> Command:
    return Command(kind, Panel.PICTURES, registry.summary(kind).replace("``", "`"), partial(pictures.command, kind))
