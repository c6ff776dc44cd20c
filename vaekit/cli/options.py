"""Options that a command has besides those in its function's signature: of components, as their specs declare them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vaekit.errors import UsageError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from vaekit.schema import ComponentSpec
    from vaekit.specs.options import Option, OptionTable

LONGEST = 18
"""Characters of a type beside a flag; longer lists of choices stand in the help, which a narrow terminal breaks at words."""
VALUELESS = frozenset({"quiet", "json", "help"})
PANELS = {"components": "Components", "model": "Model", "data": "Data", "augment": "Augmentation", "train": "Training"}
SpecArgument = Annotated[
    Path | None, typer.Argument(metavar="SPEC.yaml", help="A spec to start from; flags override it.", show_default=False)
]


def declare(function: Callable[..., None], options: Mapping[str, Any], **fixed: Any) -> Callable[..., None]:
    """Return a command with more options than its function's signature shows.

    Args:
        function: The command. It receives those of the options that are given as ``given``, a value by each name.
        options: Annotations by name, for Typer to read.
        fixed: Further arguments of the function, of which Typer knows nothing.
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

    called.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined] # of any function
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
    """Return the annotation by which Typer takes an option of a component or a spec: a switch, or text that specs read and check.

    Args:
        flags: What it goes by, with dashes; those of a switch get their opposites.
        kind: Its type.
        default: What it is unless given.
        required: Whether it must be given; then the default means nothing.
        about: One sentence.
        panel: Where the help shows it.
        several: Whether it may be given more than once.
        hidden: Whether the help leaves it out.
    """
    from rich.markup import escape

    from vaekit.schema import alternatives
    from vaekit.specs.text import type_text, value_text

    parts, text = alternatives(kind), type_text(kind)
    if len(text) > LONGEST and "|" in text:
        about, text = f"{about} One of {text.replace('|', ', ')}.", "choice"
    ending = "required" if required else f"default: {value_text(default) or 'nothing'}"
    chosen_later = default is None and "none" in parts  # what that means, the sentence says
    switch = bool in parts
    info = typer.Option(
        *((f"{flag}/--no-{flag[2:]}" for flag in flags) if switch else flags),
        metavar=None if switch else text,
        help=escape(about) + ("" if chosen_later else f" [dim]{escape(f'[{ending}]')}[/dim]"),
        show_default=False,
        hidden=hidden,
        rich_help_panel=panel,
    )
    taken: Any = bool if switch else list[str] if several else str
    return Annotated[taken | None, info]


def component_fields(spec: type[ComponentSpec]) -> dict[str, FieldInfo]:
    """Return the options of a component by name."""
    return {name: field for name, field in spec.model_fields.items() if name != "kind"}


def field_option(name: str, field: FieldInfo, *, panel: str | None = None) -> Any:
    """Return the annotation by which Typer takes an option of a component; see `component_option`."""
    return component_option(
        [f"--{name.replace('_', '-')}"],
        field.annotation,
        default=field.default,
        required=field.is_required(),
        about=field.description or "",
        panel=panel,
    )


def read_fields(spec: type[ComponentSpec], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the strings of a command line mean for those of its options that a component has."""
    from vaekit.specs.text import read_value

    fields = component_fields(spec)
    return {name: read_value(value, fields[name].annotation) for name, value in given.items() if name in fields}


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


def with_component_options(
    function: Callable[..., None], arguments: Sequence[str], *, without: Collection[str] = ()
) -> tuple[Callable[..., None], list[str]]:
    """Return a command with the options of a run as its arguments choose the components, and the arguments in normal form.

    Args:
        function: The command. It receives the plain data of the spec file as ``base``, and the options given as ``given``.
        arguments: What follows the command's name.
        without: Options that the command does not have.

    Raises:
        UsageError: A flag is unknown or ambiguous, or a component that it chooses does not exist.
    """
    own = inspect.signature(function).parameters.keys() - {"spec", "base", "given"} - VALUELESS
    base, table, normal = read_options(arguments, own=own)
    options = {}
    for option in table.options:
        if option.names[0] in without:
            continue
        shown, *others = sorted(option.names, key=len)  # the shortest name is enough to read
        for names in filter(None, ([shown], others)):
            options[names[0]] = _annotation(option, names, hidden=names is others)
    return declare(function, options, base=base), normal


def read_options(arguments: Sequence[str], *, own: Collection[str]) -> tuple[dict[str, Any], OptionTable, list[str]]:
    """Return the plain data of the spec file, the options of the components chosen, and the arguments in normal form.

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
    return base, table, words.arguments


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
