"""``vaekit train``: a command whose flags are the options of the components that its own arguments choose."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vaekit.cli.common import JsonOption, QuietOption, component_option, interruptible
from vaekit.errors import UsageError

if TYPE_CHECKING:
    from vaekit.specs.options import Option, OptionTable

HELP = """Train a model: on a built-in set of digits unless told otherwise.

The flags are the options of the components chosen: `vaekit train --encoder cnn --loss beta --help` shows those of `cnn`
and `beta`. All go by their component's role too, as --loss.beta. Lists are written 512,256.
"""
VALUELESS = frozenset({"quiet", "json", "help"})
PANELS = {"components": "Components", "model": "Model", "data": "Data", "augment": "Augmentation", "train": "Training"}
SpecArgument = Annotated[
    Path | None, typer.Argument(metavar="SPEC.yaml", help="A spec to start from; flags override it.", show_default=False)
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="The run folder, new or empty; the next number under runs/ unless given.", show_default=False
    ),
]


@dataclass
class Words:
    """Arguments as read before it is known which flags there are.

    Args:
        spec: The spec file.
        flags: Values of each flag, underscored and without its dashes; None where no value follows.
        arguments: All of them, the flags hyphenated.
    """

    spec: str | None = None
    flags: dict[str, list[str | None]] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)


def placeholder() -> None:
    """Train a model; its flags are the options of the components chosen: see `vaekit train --help`."""


def command(arguments: Sequence[str]) -> tuple[Callable[..., None], list[str]]:
    """Return the command that fits its arguments, and the arguments in normal form.

    Raises:
        UsageError: A flag is unknown or ambiguous, or a component that it chooses does not exist.
    """
    table, normal = read_options(arguments, own={"out"})
    own = {"spec": SpecArgument, "out": OutOption, "quiet": QuietOption, "json": JsonOption}

    def train(*, spec: Path | None, out: Path | None, quiet: bool, json: bool, given: Mapping[str, Any]) -> None:
        from vaekit.cli.console import choose_reporter
        from vaekit.run import train as run_training

        del spec  # the table was made of it
        reporter = choose_reporter(json=json, quiet=quiet)
        with interruptible(reporter):
            run_training(table.spec(given), out=out, reporter=reporter)

    train.__doc__ = HELP
    return declare(train, own, table.options), normal


def read_options(arguments: Sequence[str], *, own: Collection[str]) -> tuple[OptionTable, list[str]]:
    """Return the options of the components that arguments choose, and the arguments in normal form.

    Args:
        arguments: Of a command that takes these options.
        own: Flags with a value that the command has besides.

    Raises:
        UsageError: A flag is unknown or ambiguous, or a component that it chooses does not exist.
    """
    from vaekit.specs.models import read_spec
    from vaekit.specs.options import OptionTable
    from vaekit.specs.resolve import ROLES, SEVERAL

    words = read_words(arguments)
    base = read_spec(words.spec) if words.spec is not None else {}
    chosen: dict[str, Any] = {role: words.flags[role][-1] for role in ROLES if words.flags.get(role, [None])[-1] is not None}
    for role in SEVERAL & chosen.keys():
        chosen[role] = [kind for kind in words.flags[role] if kind is not None]
    table = OptionTable(base, chosen)
    options = table.options
    switches = {prefix + name for option in options if is_switch(option) for name in option.names for prefix in ("", "no_")}
    valued = {name for option in options if not is_switch(option) for name in option.names} | set(own)
    table.check_names(words.flags.keys() - switches - valued - VALUELESS)
    for name, values in words.flags.items():
        if name in valued and None in values:
            raise UsageError(f"--{name.replace('_', '-')} needs a value")
        if name in switches and values != [None] * len(values):
            raise UsageError(f"--{name.replace('_', '-')} takes no value", remedy="write SPEC.yaml, if that was one, first")
    return table, words.arguments


def read_words(arguments: Sequence[str]) -> Words:
    """Find the spec file and the flags among arguments; a word after a flag is its value unless it looks like a spec file."""
    words, rest = Words(), list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            words.spec = words.spec or (rest[0] if rest else None)
            words.arguments += [word, *rest]
            break
        if not word.startswith("--"):
            words.spec = words.spec or (None if word.startswith("-") else word)
            words.arguments.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        words.arguments.append(f"--{name.replace('_', '-')}{equals}{value}")
        name = name.replace("-", "_")
        given = value if equals else None
        if not equals and name not in VALUELESS and rest and not _ends_value(rest[0]):
            given = rest.pop(0)
            words.arguments.append(given)
        words.flags.setdefault(name, []).append(given)
    return words


def _ends_value(word: str) -> bool:
    return word.startswith("--") or word.endswith((".yaml", ".yml", ".json"))


def is_switch(option: Option) -> bool:
    """Whether an option is given as ``--x`` or ``--no-x``."""
    from vaekit.schema import alternatives

    return bool in alternatives(option.type)


def declare(function: Callable[..., None], own: Mapping[str, Any], options: Sequence[Option]) -> Callable[..., None]:
    """Return a command whose signature declares every option, for Typer to read.

    Args:
        function: Receives its own parameters by name, and the options given, by name, as ``given``.
        own: Annotations of its own parameters; those called ``quiet`` or ``json`` are switches.
        options: What else can be set.
    """
    names: dict[str, str] = {}
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(name, keyword, default=False if name in VALUELESS else None, annotation=annotation)
        for name, annotation in own.items()
    ]
    for option in options:
        shown, *others = sorted(option.names, key=len)  # the shortest name is enough to read
        for flags in filter(None, ([shown], others)):
            key = f"option_{len(names)}"
            names[key] = flags[0]
            annotation = _annotation(option, flags, hidden=flags is others)
            parameters.append(inspect.Parameter(key, keyword, default=None, annotation=annotation))

    @wraps(function)
    def called(**values: Any) -> None:
        given = {names[key]: values[key] for key in names if values[key] is not None and values[key] != []}
        function(**{name: values[name] for name in own}, given=given)

    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called


def _annotation(option: Option, names: Sequence[str], *, hidden: bool) -> Any:
    """Return the annotation that declares an option to Typer."""
    from vaekit.specs.resolve import SEVERAL

    return component_option(
        [f"--{name.replace('_', '-')}" for name in names],
        option.type,
        default=option.default,
        required=option.required,
        about=option.description,
        panel=PANELS.get(option.owner, option.owner),
        several=option.names[0] in SEVERAL,
        hidden=hidden,
    )
