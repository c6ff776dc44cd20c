"""Options by name: one rule for the command line, keyword arguments of `vaekit.train` and spec files.

``encoder``, ``decoder``, ``posterior``, ``prior``, ``likelihood``, ``dataset``, ``loss`` and ``logger`` choose components. A
field of a spec goes by its own name (``epochs``), an augmentation by ``augment.rotate``. An option of a chosen component is
dotted by its role (``encoder.hidden``), one of a loss or logger by its kind as well (``tc.beta``), and undotted where exactly one
chosen component has it and no field of a spec is called so (``beta``). A name that fits several options is an error that lists
them.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from vaekit import roles
from vaekit.data.specs import AugmentSpec
from vaekit.errors import UsageError, VaekitError
from vaekit.specs.models import SECTIONS, RunSpec
from vaekit.specs.resolve import ROLES, SEVERAL, choose_components, chosen_components, complete, section_of
from vaekit.specs.text import read_value

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

Path = tuple[str | int, ...]

RESERVED = frozenset(
    {"spec", "out", "reporter", "quiet", "json", "debug", "help"}
    | {"over", "stack", "tell", "search", "storage", "trials", "metric", "prune"}
)
"""What `vaekit.train`, `vaekit.sweep` and the command line call something else: no option goes by such a name undotted."""


@dataclass(frozen=True)
class Option:
    """Something that can be set.

    Args:
        names: What it goes by, the fullest name first.
        type: What it holds, as an annotation.
        default: What it is unless set: the file's value, else its own default.
        required: Whether it must be set; then the default means nothing.
        description: One sentence.
        owner: What it belongs to, as ``encoder cnn`` or ``train``.
        path: Where it lies in a spec.
    """

    names: tuple[str, ...]
    type: Any
    default: Any
    required: bool
    description: str
    owner: str
    path: Path


class OptionTable:
    """Every option that can be set once components are chosen, by name.

    Choosing a component of another kind than the spec's drops that component's options in the spec; choosing the same kind keeps
    them.

    Args:
        base: Plain data of a spec, as read from a file; it may be empty.
        options: Values by name, of which only the components matter here; hyphens count as underscores.

    Raises:
        UsageError: A component does not exist.
    """

    def __init__(self, base: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        chosen = {name: value for name, value in _normalise(options).items() if name in ROLES}
        self.data = choose_components(base, chosen)
        self.index = _options_by_name(self.data)

    @property
    def options(self) -> list[Option]:
        """All options, each with the names that fit no other."""
        found = {option.path: option for candidates in self.index.values() for option in candidates}
        return [replace(option, names=tuple(n for n in option.names if len(self.index[n]) == 1)) for option in found.values()]

    def spec(self, options: Mapping[str, Any]) -> RunSpec:
        """Return the whole spec that the options make; components among them were chosen already.

        Raises:
            SpecError: A value does not validate; the message holds its path, as ``loss.beta``.
            UsageError: An option is unknown, its name fits several, or the parts do not fit together.
        """
        data, set_by = deepcopy(self.data), dict[Path, str]()
        for name, value in _normalise(options).items():
            if name in ROLES:
                continue
            option = self.find(name)
            if (other := set_by.setdefault(option.path, name)) != name:
                raise UsageError(f"{other} and {name} are names of the same option", remedy="give one of them")
            target: Any = data
            for part in option.path[:-1]:
                target = target[part]
            target[option.path[-1]] = read_value(value, option.type)
        return complete(data, "what was asked for")

    def check_names(self, names: Iterable[str]) -> None:
        """Refuse names that are unknown or fit several options.

        Raises:
            UsageError: The message lists the candidates.
        """
        for name in names:
            self.find(name.replace("-", "_"))

    def find(self, name: str) -> Option:
        """Return the option of a name.

        Raises:
            UsageError: The name is unknown or fits several options; the message lists the candidates.
        """
        candidates = self.index.get(name, [])
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            names = [next((n for n in option.names if len(self.index[n]) == 1), option.names[0]) for option in candidates]
            raise UsageError(
                f"{name} belongs to {' and '.join(option.owner for option in candidates)}",
                remedy=f"say {' or '.join(f'--{n}' for n in names)}",
            )
        owners = _owners_elsewhere(name, self.index)
        near = difflib.get_close_matches(name, self.index, n=3)
        remedy = f"did you mean {' or '.join(f'--{n}' for n in near)}?" if near else "see `vaekit train --help`"
        raise UsageError(
            f"there is no option {name} here",
            expected=f"{' or '.join(owners)} to be chosen, which has it" if owners else None,
            remedy=f"choose it, as with {' or '.join(f'--{owner}' for owner in owners)}" if owners else remedy,
        )


def build_spec(base: Mapping[str, Any], options: Mapping[str, Any]) -> RunSpec:
    """Return the whole spec that a file and the options over it make. Strings are read as on a command line.

    Args:
        base: Plain data of a spec, as read from a file; it may be empty.
        options: Values by name; hyphens count as underscores.

    Raises:
        SpecError: A value does not validate; the message holds its path, as ``loss.beta``.
        UsageError: An option is unknown, its name fits several, or the parts do not fit together.

    Example:
        >>> build_spec({}, {"encoder": "cnn", "loss": "beta", "beta": "2.5"}).model.loss[0].beta
        2.5
    """
    return OptionTable(base, options).spec(options)


def _normalise(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("-", "_"): value for name, value in options.items()}


def _options_by_name(data: Mapping[str, Any]) -> dict[str, list[Option]]:
    """Return, for every name, the options that it fits."""
    literal: Any = Literal
    index: dict[str, list[Option]] = defaultdict(list)
    chosen = chosen_components(data)
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
    """Return the option of a field, its default being the file's value where the file has one."""
    annotation = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    try:
        for part in path:
            data = data[part]
        default, required = data, False
    except (KeyError, TypeError):
        default, required = field.default, field.is_required()
    return Option(names, annotation, default, required, field.description or "", owner, path)


def _owners_elsewhere(name: str, index: Mapping[str, list[Option]]) -> list[str]:
    """Return the components, as ``loss beta``, that have such an option but are not chosen."""
    prefix, _, name = name.rpartition(".")
    chosen = {option.owner for options in index.values() for option in options}
    owners = []
    for role, components in ROLES.items():
        for kind in components.kinds():
            if prefix in {"", role, kind} and f"{role} {kind}" not in chosen:
                try:
                    has_it = name in components.spec(kind).model_fields.keys() - {"kind"}
                except VaekitError:  # a broken plugin is no advice
                    continue
                owners += [f"{role} {kind}"] if has_it else []
    return owners
