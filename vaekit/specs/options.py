"""Options by name: the same names on the command line, as keyword arguments of `vaekit.train`, and over spec files.

``encoder``, ``decoder``, ``posterior``, ``prior``, ``likelihood``, ``dataset``, ``loss`` and ``logger`` choose components. A
field of a spec has its own name (``epochs``), and an augmentation is prefixed (``augment.rotate``). An option of a chosen
component is prefixed with its role (``encoder.hidden``); an option of a loss or logger also with its kind (``tc.beta``). The
prefix may be omitted if exactly one chosen component has the option and no field of a spec has the same name (``beta``). A name
that matches several options is an error that lists them. ``model`` starts from a published model; see `vaekit.specs.zoo`.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from vaekit import roles
from vaekit.data.specs import AugmentSpec
from vaekit.errors import UsageError, VaekitError
from vaekit.specs.models import LIMITS, SECTIONS, RunSpec
from vaekit.specs.resolve import ROLES, SEVERAL, choose_components, chosen_components, complete, section_of
from vaekit.specs.text import read_value
from vaekit.specs.zoo import base_of

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

Path = tuple[str | int, ...]

RESERVED = frozenset(
    {"spec", "model", "out", "reporter", "quiet", "json", "debug", "help"}
    | {"over", "stack", "search", "storage", "trials", "metric", "prune"}
)
"""Names with another meaning for `vaekit.train`, `vaekit.sweep` or the command line; options so named always need a prefix."""


@dataclass(frozen=True)
class Option:
    """An option of a run.

    Args:
        names: Its names, the most specific first.
        type: The annotation of its values.
        default: Its value if it is not set: the value in the file, else its own default.
        required: Whether it must be set; the default is then meaningless.
        description: A one-sentence description.
        owner: The component or section that has it, such as ``encoder cnn`` or ``train``.
        path: Its path in a spec.
    """

    names: tuple[str, ...]
    type: Any
    default: Any
    required: bool
    description: str
    owner: str
    path: Path


class OptionTable:
    """The options that are available once components are chosen, by name.

    Choosing a component of a different kind from the spec's drops the options that the spec has for it; choosing the same kind
    keeps them.

    Args:
        base: Plain data of a spec, as read from a file; may be empty.
        options: Values by name; only the model and the components are used here. Hyphens count as underscores.

    Raises:
        UsageError: A component or the model is unknown.
    """

    def __init__(self, base: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        given = _normalise(options)
        if given.get("model") is not None:
            base = base_of(given["model"], base, given.get("init"))
        self.data = choose_components(base, {name: value for name, value in given.items() if name in ROLES})
        self.index = _options_by_name(self.data)

    @property
    def options(self) -> list[Option]:
        """All options, each with its unambiguous names."""
        found = {option.path: option for candidates in self.index.values() for option in candidates}
        return [replace(option, names=tuple(n for n in option.names if len(self.index[n]) == 1)) for option in found.values()]

    def spec(self, options: Mapping[str, Any]) -> RunSpec:
        """Return the complete spec that results from the options; components among them have already been chosen.

        Raises:
            SpecError: A value is invalid; the message contains its path, such as ``loss.beta``.
            UsageError: An option is unknown or ambiguous, or the parts do not fit together.
        """
        data, set_by = deepcopy(self.data), dict[Path, str]()
        for name, value in _normalise(options).items():
            if name in ROLES or name == "model":
                continue
            option = self.find(name)
            if (other := set_by.setdefault(option.path, name)) != name:
                raise UsageError(f"{other} and {name} are names of the same option", remedy="set only one of them")
            target: Any = data
            for part in option.path[:-1]:
                target = target[part]
            target[option.path[-1]] = read_value(value, option.type)
        return complete(data, "the request")

    def check_names(self, names: Iterable[str]) -> None:
        """Check that every name refers to exactly one option.

        Raises:
            UsageError: A name is unknown or ambiguous; the message lists the candidates.
        """
        for name in names:
            self.find(name.replace("-", "_"))

    def find(self, name: str) -> Option:
        """Return the option of a name.

        Raises:
            UsageError: The name is unknown or ambiguous; the message lists the candidates.
        """
        candidates = self.index.get(name, [])
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            names = [next((n for n in option.names if len(self.index[n]) == 1), option.names[0]) for option in candidates]
            raise UsageError(
                f"{name} is ambiguous: it belongs to {' and '.join(option.owner for option in candidates)}",
                remedy=f"use {' or '.join(f'--{n}' for n in names)}",
            )
        owners = _owners_elsewhere(name, self.index)
        near = difflib.get_close_matches(name, self.index, n=3)
        remedy = f"did you mean {' or '.join(f'--{n}' for n in near)}?" if near else "see `vaekit train --help`"
        raise UsageError(
            f"unknown option {name}",
            expected=f"a component that has it: {' or '.join(owners)}" if owners else None,
            remedy=f"choose one: {' or '.join(f'--{owner}' for owner in owners)}" if owners else remedy,
        )


def build_spec(base: Mapping[str, Any], options: Mapping[str, Any]) -> RunSpec:
    """Return the complete spec that results from a file and the options that override it.

    Args:
        base: Plain data of a spec, as read from a file; may be empty.
        options: Values by name; hyphens count as underscores, and strings are read as on a command line.

    Raises:
        SpecError: A value is invalid; the message contains its path, such as ``loss.beta``.
        UsageError: An option is unknown or ambiguous, or the parts do not fit together.

    Example:
        >>> build_spec({}, {"encoder": "cnn", "loss": "beta", "beta": "2.5"}).model.loss[0].beta
        2.5
    """
    return OptionTable(base, options).spec(options)


def with_limits(spec: RunSpec, limits: Mapping[str, Any]) -> RunSpec:
    """Return the spec of a run with other limits; a new number of steps determines the number of epochs.

    Args:
        spec: The spec.
        limits: Values by name, of those in `LIMITS`; strings are read as on a command line.

    Raises:
        SpecError: A value is invalid.
        UsageError: An option is not a limit.
    """
    given = _normalise(limits)
    if unfit := [name for name in given if name not in LIMITS]:
        raise UsageError(
            "a run is resumed with its original settings, except for its limits",
            given=", ".join(unfit),
            expected=", ".join(LIMITS),
            remedy="start another run from its spec.yaml, with --init RUN to start from its weights",
        )
    data = spec.model_dump(mode="json")
    if given.get("max_steps") not in {None, "none"}:
        del data["train"]["epochs"]
    return build_spec(data, given)


def _normalise(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("-", "_"): value for name, value in options.items()}


def _options_by_name(data: Mapping[str, Any]) -> dict[str, list[Option]]:
    """Return, for every name, the options that it matches."""
    literal: Any = Literal
    index: dict[str, list[Option]] = defaultdict(list)
    chosen = chosen_components(data)
    about = "Model from the literature to start from; `vaekit zoo` lists them."
    index["model"].append(
        Option(("model",), Annotated[str | None, Field(examples=["NAME"])], None, False, about, "components", ())
    )
    for role in ROLES:
        section = section_of(role)
        kinds = (*ROLES[role].kinds(), *(roles.likelihoods.kinds() if role == "loss" else ()))
        default = tuple(kind for other, kind, _ in chosen if other == role) or (None if role == "logger" else ())
        about = SECTIONS[section].model_fields[role].description or ""
        index[role].append(Option((role,), literal[kinds], default, False, about, "components", (section, role)))
    for section, spec in SECTIONS.items():
        for name, field in spec.model_fields.items():
            if name not in ROLES and name != "augment":
                index[name].append(_option((name,), field, section, (section, name), data))
    for name, field in AugmentSpec.model_fields.items():
        index[f"augment.{name}"].append(_option((f"augment.{name}",), field, "augment", ("data", "augment", name), data))
    taken = RESERVED | index.keys()
    for role, kind, path in chosen:
        for name, field in ROLES[role].spec(kind).model_fields.items():
            if name != "kind":
                undotted = () if name in taken else (name,)
                own = (f"{kind.replace('-', '_')}.{name}",) if role in SEVERAL and kind != role else ()
                names = (f"{role}.{name}", *undotted, *own)
                for each in names:
                    index[each].append(_option(names, field, f"{role} {kind}", (*path, name), data))
    return dict(index)


def _option(names: tuple[str, ...], field: FieldInfo, owner: str, path: Path, data: Any) -> Option:
    """Return the option of a field; its default is the file's value if there is one."""
    metadata = [*field.metadata, *([Field(examples=field.examples)] if field.examples else [])]
    annotation = Annotated[field.annotation, *metadata] if metadata else field.annotation
    try:
        for part in path:
            data = data[part]
        default, required = data, False
    except (KeyError, TypeError):
        default, required = field.default, field.is_required()
    return Option(names, annotation, default, required, field.description or "", owner, path)


def _owners_elsewhere(name: str, index: Mapping[str, list[Option]]) -> list[str]:
    """Return the components, such as ``loss beta``, that have the option but are not chosen."""
    prefix, _, name = name.rpartition(".")
    chosen = {option.owner for options in index.values() for option in options}
    owners = []
    for role, components in ROLES.items():
        for kind in components.kinds():
            if prefix in {"", role, kind} and f"{role} {kind}" not in chosen:
                try:
                    has_it = name in components.spec(kind).model_fields.keys() - {"kind"}
                except VaekitError:  # do not suggest a broken plugin
                    continue
                owners += [f"{role} {kind}"] if has_it else []
    return owners
