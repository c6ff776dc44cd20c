"""Options of commands that come from the specs of components rather than from the signature of a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vaekit.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from vaekit.schema import ComponentSpec
    from vaekit.specs.options import Option, OptionTable

LONGEST = 18
"""Longest type beside a flag, in characters; longer lists of choices go into the help text, which wraps in a narrow terminal."""
VALUELESS = frozenset({"quiet", "json", "help"})
BOOLEANS = {"true": True, "false": False}
PANELS = {"components": "Components", "model": "Model", "data": "Data", "augment": "Augmentation", "train": "Training"}
SpecArgument = Annotated[
    Path | None,
    typer.Argument(metavar="SPEC.yaml", help="A spec, or a run, to start from; flags override it.", show_default=False),
]


def declare(function: Callable[..., None], options: Mapping[str, Any], **fixed: Any) -> Callable[..., None]:
    """Return a command with more options than its function's signature shows.

    Args:
        function: The command. It receives the options that the user sets as ``given``, values by name.
        options: Annotations for Typer, by name.
        fixed: Other arguments of the function that are not options.
    """
    signature = inspect.signature(function, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "given" and name not in fixed]
    names = {f"option_{i}": name for i, name in enumerate(options)}
    keyword = inspect.Parameter.KEYWORD_ONLY
    more = [inspect.Parameter(key, keyword, default=None, annotation=options[name]) for key, name in names.items()]

    @wraps(function)
    def called(**values: Any) -> None:
        given = {name: value for key, name in names.items() if (value := values.pop(key)) is not None and value != []}
        function(**values, **fixed, given=given)

    called.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined] # mypy does not know that functions have it
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *more)}
    return called


def component_option(
    flags: Sequence[str],
    kind: Any,
    *,
    default: Any,
    required: bool,
    about: str,
    panel: str | None = None,
    several: bool = False,
    hidden: bool = False,
) -> Any:
    """Return the annotation for Typer of an option of a component or a spec: a switch, or text that the spec validates.

    Args:
        flags: The flags, with dashes; a switch gets the negated flags too.
        kind: The type.
        default: The default.
        required: Whether there is no default.
        about: The help, one sentence.
        panel: The panel of the help.
        several: Whether it may be given more than once.
        hidden: Whether the help omits it.
    """
    from rich.markup import escape

    from vaekit.schema import alternatives
    from vaekit.specs.text import type_text, value_text

    parts, text = alternatives(kind), type_text(kind)
    if len(text) > LONGEST and "|" in text:
        about, text = f"{about} One of {text.replace('|', ', ')}.", "choice"
    ending = "required" if required else f"default: {value_text(default) or 'nothing'}"
    chosen_later = default is None and "none" in parts  # the help text says what that means
    switch = is_switch(kind)
    info = typer.Option(
        *((f"{flag}/--no-{flag[2:]}" for flag in flags) if switch else flags),
        metavar=None if switch else text,
        help=escape(about) + ("" if chosen_later else f" [dim]{escape(f'[{ending}]')}[/dim]"),
        show_default=False,
        hidden=hidden,
        rich_help_panel=None if panel is None else escape(panel),
    )
    taken: Any = bool if switch else list[str] if several else str
    return Annotated[taken | None, info]


def component_fields(spec: type[ComponentSpec]) -> dict[str, FieldInfo]:
    """Return the options of a component by name."""
    return {name: field for name, field in spec.model_fields.items() if name != "kind"}


def field_option(name: str, field: FieldInfo, *, panel: str | None = None) -> Any:
    """Return the annotation for Typer of an option of a component; see `component_option`."""
    return component_option(
        [f"--{name.replace('_', '-')}"],
        field.annotation,
        default=field.default,
        required=field.is_required(),
        about=field.description or "",
        panel=panel,
    )


def read_fields(spec: type[ComponentSpec], given: Mapping[str, Any]) -> dict[str, Any]:
    """Parse the strings given on the command line for the options of a component; other options are dropped."""
    from vaekit.specs.text import read_value

    fields = component_fields(spec)
    return {name: read_value(value, fields[name].annotation) for name, value in given.items() if name in fields}


def spell_out(arguments: Sequence[str], switches: Collection[str]) -> list[str]:
    """Return arguments with ``--x true`` written as ``--x``, and ``--x false`` as ``--no-x``, for each switch ``x``.

    Args:
        arguments: The arguments.
        switches: The names of switches, without dashes and with underscores.
    """
    normal, rest = [], list(arguments)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if flag.startswith("--") and flag[2:].replace("-", "_") in switches:
            given = value if equals else rest[0] if rest else ""
            if (chosen := BOOLEANS.get(given.lower())) is not None:
                word = flag if chosen else f"--no-{flag[2:]}"
                del rest[: 0 if equals else 1]
        normal.append(word)
    return normal


@dataclass
class Words:
    """Arguments as read before the available flags are known.

    Args:
        spec: The spec file.
        flags: Values of each flag, which is written without dashes and with underscores; None if no value follows.
        arguments: All arguments, with hyphenated flags.
    """

    spec: str | None = None
    flags: dict[str, list[str | None]] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)


def with_component_options(
    function: Callable[..., None],
    arguments: Sequence[str],
    *,
    without: Collection[str] = (),
    base_of: Callable[[Words], Mapping[str, Any]] | None = None,
) -> tuple[Callable[..., None], list[str]]:
    """Return a command with the options of the components that its arguments choose, and the arguments in normal form.

    Args:
        function: The command. It receives the plain data of the spec file as ``base``, and the options that are set as ``given``.
        arguments: The arguments after the command's name.
        without: Options that the command does not have; a role stands for the options of its component, too.
        base_of: Returns the plain data of the spec to start from; default: of the spec file, if one is given.

    Raises:
        UsageError: A flag is unknown or ambiguous, or a chosen component does not exist.
    """
    own = inspect.signature(function).parameters.keys() - {"spec", "run", "base", "given"} - VALUELESS
    base, table, normal = read_options(arguments, own=own, base_of=base_of)
    options = {}
    for option in table.options:
        if option.names[0].partition(".")[0] in without:
            continue
        shown, *others = sorted(option.names, key=len)  # the shortest name is enough to read
        for names in filter(None, ([shown], others)):
            options[names[0]] = _annotation(option, names, hidden=names is others)
    return declare(function, options, base=base), normal


def read_options(
    arguments: Sequence[str], *, own: Collection[str], base_of: Callable[[Words], Mapping[str, Any]] | None = None
) -> tuple[Mapping[str, Any], OptionTable, list[str]]:
    """Return the plain data of the spec file, the options of the components chosen, and the arguments in normal form.

    Args:
        arguments: The arguments after the command's name.
        own: Other flags of the command that take a value.
        base_of: Returns the plain data of the spec to start from; default: of the spec file, if one is given.

    Raises:
        UsageError: A flag is unknown or ambiguous, or a chosen component does not exist.
    """
    from vaekit.specs.options import OptionTable
    from vaekit.specs.resolve import ROLES, SEVERAL

    words = read_words(arguments)
    base = (base_of or _given_spec)(words)
    selected = {name: words.flags[name][-1] for name in ("model", "init", *ROLES) if name in words.flags}
    chosen: dict[str, Any] = {name: value for name, value in selected.items() if value is not None}
    for role in SEVERAL & chosen.keys():
        chosen[role] = [kind for kind in words.flags[role] if kind is not None]
    table = OptionTable(base, chosen)
    options = table.options
    positive = {name for option in options if is_switch(option.type) for name in option.names}
    words = read_words(spell_out(words.arguments, positive))
    switches = positive | {f"no_{name}" for name in positive}
    valued = {name for option in options if not is_switch(option.type) for name in option.names} | set(own)
    table.check_names(words.flags.keys() - switches - valued - VALUELESS)
    for name, values in words.flags.items():
        if name in valued and None in values:
            raise UsageError(f"--{name.replace('_', '-')} needs a value")
        if name in switches and (given := [value for value in values if value is not None]):
            flag = name.removeprefix("no_").replace("_", "-")
            raise UsageError(
                f"--{name.replace('_', '-')} is a switch, which takes no value",
                given=given[0],
                expected=f"--{flag} or --no-{flag}",
                remedy="write the spec file before the flags" if Path(given[0]).is_file() else None,
            )
    return base, table, words.arguments


def spec_of_run(
    words: Words, role: str, example: str, derive: Callable[[Path, str | None], Mapping[str, Any]]
) -> Mapping[str, Any]:
    """Return the plain data of a spec that is derived from the run that the arguments name, and from a component of it.

    Help needs neither: without a component it shows the options of an example, and without a run those of a default model.

    Args:
        words: The arguments.
        role: The role of the component.
        example: Its kind in the help.
        derive: A function of the run folder and the kind.

    Raises:
        CheckpointError: The folder is not a run, or there is no run.
    """
    from vaekit.hub import local_run
    from vaekit.store.folder import RunFolder, newest_run

    helps = "help" in words.flags
    kind = (words.flags.get(role) or [example if helps else None])[-1]
    try:
        folder = RunFolder(newest_run() if words.spec is None else local_run(words.spec)).require()
    except CheckpointError:
        if helps and words.spec is None:
            return {"model": {role: {"kind": kind}}}
        raise
    return derive(folder.path, kind)


def _given_spec(words: Words) -> dict[str, Any]:
    from vaekit.specs.models import read_spec

    return read_spec(words.spec) if words.spec is not None else {}


def read_words(arguments: Sequence[str]) -> Words:
    """Find the spec file and the flags; a word after a flag is its value unless it looks like a spec file."""
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


def is_switch(kind: Any) -> bool:
    """Whether an option of a type is given as ``--x`` or ``--no-x``."""
    from vaekit.schema import alternatives

    return bool in alternatives(kind)


def switches_of(fields: Mapping[str, FieldInfo]) -> set[str]:
    """Return the names of the options of a component that are switches."""
    return {name for name, field in fields.items() if is_switch(field.annotation)}


def _annotation(option: Option, names: Sequence[str], *, hidden: bool) -> Any:
    """Return the annotation of an option for Typer."""
    from vaekit.specs.resolve import SEVERAL

    return component_option(
        [f"--{name.replace('_', '-')}" for name in names],
        option.type,
        default=option.default,
        required=option.required,
        about=option.description,
        panel=PANELS.get(option.owner, option.owner),
        several=option.names[0] in SEVERAL | {"tag"},
        hidden=hidden,
    )
