"""Options by name: one rule for the command line, keyword arguments of `vaekit.train` and spec files.

``encoder``, ``decoder``, ``posterior``, ``prior``, ``likelihood``, ``dataset`` and ``loss`` choose components. A field of a spec
goes by its own name (``epochs``), an augmentation by ``augment.rotate``. An option of a chosen component is dotted by its role
(``encoder.hidden``), one of a loss by ``loss`` or by its kind (``tc.beta``), and undotted where exactly one chosen component
has it and no field of a spec is called so (``beta``). A name that would fit several is an error that lists them.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from vaekit import registry
from vaekit.assembly import default_decoder
from vaekit.data.specs import AugmentSpec
from vaekit.errors import SpecError, UsageError, VaekitError
from vaekit.schema import ComponentSpec
from vaekit.specs import RunSpec, parse_spec, unknown_loss

ROLES = {components.role: components for components in registry.REGISTRIES}
SECTIONS: dict[str, Any] = {name: field.annotation for name, field in RunSpec.model_fields.items()}
RESERVED = frozenset({"spec", "out", "reporter", "quiet", "json", "debug", "help"})
"""What `vaekit.train` and the command line call something else: no option goes by such a name undotted."""

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Option:
    """Something that can be set.

    Args:
        names: Every name that it goes by, the fullest first.
        type: What it holds, as an annotation.
        default: What it is unless set: the file's value, else the signature's; meaningless where it is required.
        required: Whether it must be set.
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


def build_spec(base: Mapping[str, Any], options: Mapping[str, Any]) -> RunSpec:
    """Return the spec that a file and the options over it make.

    Choosing a component of another kind than the file's drops that component's options in the file; choosing the same kind
    keeps them. Strings are read as on a command line: ``512,256`` is a tuple, ``none`` no value.

    Args:
        base: Plain data of a spec, as read from a file; it may be empty.
        options: Values by name.

    Raises:
        SpecError: A value does not validate; the message holds its path, as ``loss.beta``.
        UsageError: An option is unknown, or its name fits several; the message lists the candidates.
    """
    given = {name.replace("-", "_"): value for name, value in options.items()}
    data = _choose(base, given)
    index = _index(data)
    set_by: dict[Path, str] = {}
    for name, value in given.items():
        if name in ROLES:
            continue
        option = find_option(index, name)
        other = set_by.setdefault(option.path, name)
        if other != name:
            raise UsageError(f"{other} and {name} are names of one option", remedy="give one of them")
        _put(data, option.path, read_value(value, option.type))
    return parse_spec(data, "the request")


def available_options(base: Mapping[str, Any], options: Mapping[str, Any]) -> list[Option]:
    """Return all that can be set beside what a file and the options choose; of ``options`` only the components matter."""
    index = _index(_choose(base, {name.replace("-", "_"): value for name, value in options.items()}))
    unique: dict[Path, list[str]] = defaultdict(list)
    for name, candidates in index.items():
        if len(candidates) == 1:
            unique[candidates[0].path].append(name)
    found = {option.path: option for candidates in index.values() for option in candidates}
    return [replace(option, names=tuple(n for n in option.names if n in unique[path])) for path, option in found.items()]


def find_option(index: Mapping[str, list[Option]] | Iterable[Option], name: str) -> Option:
    """Return the option called ``name``.

    Raises:
        UsageError: There is none, or several; the message lists the candidates.
    """
    if not isinstance(index, Mapping):
        index = {n: [option] for option in index for n in option.names}
    candidates = index.get(name, [])
    if not candidates:
        raise _unknown(index, name)
    if len(candidates) > 1:
        owners = " and ".join(option.owner for option in candidates)
        names = " or ".join(f"--{option.names[0]}" for option in candidates)
        raise UsageError(f"the option {name} belongs to {owners}", remedy=f"say {names}")
    return candidates[0]


# What is chosen


def _choose(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the file's data with the components that the options choose, each as a mapping with ``kind``."""
    data = dict(base)
    for section in SECTIONS:
        content = data.get(section) or {}
        if not isinstance(content, Mapping):
            raise SpecError(f"{section} is not a mapping", given=repr(content), expected=f"the fields of section {section}")
        data[section] = dict(content)
    for role in ROLES:
        if role not in {"loss", "likelihood"}:
            section = data[_section(role)]
            before = _component(role, section.get(role))
            chosen = _kept(_component(role, given[role]), [before]) if role in given else before
            section.pop(role, None)
            if chosen is not None:
                section[role] = chosen
    _choose_losses(data["model"], given)
    return data


def _choose_losses(model: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Likelihoods may stand among the losses, in a file as in the options; here they move to their own field."""
    losses, likelihoods = _split_losses(model.pop("loss", None))
    likelihoods += [_component("likelihood", model.pop("likelihood", None))]
    new_losses, new_likelihoods = _split_losses(given.get("loss"))
    if "likelihood" in given:
        new_likelihoods += [_component("likelihood", given["likelihood"])]
    if "loss" in given:
        losses = [_kept(loss, losses) for loss in new_losses]
    if new_likelihoods:
        likelihoods = [_kept(likelihood, likelihoods) for likelihood in new_likelihoods]
    chosen = [likelihood for likelihood in likelihoods if likelihood is not None]
    if len(chosen) > 1:
        names = " and ".join(repr(likelihood["kind"]) for likelihood in chosen)
        raise SpecError("a model has exactly one likelihood", given=names, remedy="keep one of them")
    model["loss"] = losses
    model |= {"likelihood": likelihood for likelihood in chosen}


def _split_losses(value: Any) -> tuple[list[Any], list[Any]]:
    """Return losses and likelihoods of one name or several."""
    single = value is None or isinstance(value, str | Mapping | ComponentSpec)
    both = [_component("loss", item) for item in ([value] if single else value) if item is not None]
    for item in both:
        if item is not None and item["kind"] not in registry.losses and item["kind"] not in registry.likelihoods:
            raise unknown_loss(item["kind"])
    losses = [item for item in both if item is not None and item["kind"] in registry.losses]
    return losses, [item for item in both if item not in losses]


def _component(role: str, value: Any) -> dict[str, Any] | None:
    """Return a component as a mapping with ``kind``; None for the default."""
    if isinstance(value, ComponentSpec):
        value = value.model_dump()
    if value is None or (value == "none" and role in {"decoder", "likelihood"}):
        return None
    if isinstance(value, str):
        return {"kind": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("kind"), str):
        raise SpecError(f"{role}: a {role} is a name, or a mapping with `kind` and options", given=repr(value))
    return dict(value)


def _kept(chosen: dict[str, Any] | None, before: Iterable[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Return the file's component of the same kind, options and all, where only a name was chosen."""
    same = [old for old in before if chosen is not None and old is not None and chosen == {"kind": old["kind"]}]
    return same[0] if same else chosen


def _section(role: str) -> str:
    return "data" if role == "dataset" else "model"


def _kinds(data: Mapping[str, Any]) -> dict[Path, tuple[str, str]]:
    """Return role and kind of every component, the defaults among them, by where it lies."""
    kinds: dict[Path, tuple[str, str]] = {}
    for role in ROLES:
        section = _section(role)
        if role == "loss":
            kinds |= {(section, role, i): (role, loss["kind"]) for i, loss in enumerate(data[section][role])}
        elif role in data[section]:
            kinds[section, role] = (role, data[section][role]["kind"])
        elif role == "decoder":
            kinds[section, role] = (role, default_decoder(kinds["model", "encoder"][1]))
        elif role != "likelihood":
            kinds[section, role] = (role, SECTIONS[section].model_fields[role].default)
    dataset = registry.datasets.get(kinds["data", "dataset"][1])
    kinds.setdefault(("model", "likelihood"), ("likelihood", dataset.default_likelihood))
    return kinds


# Names


def _index(data: Mapping[str, Any]) -> dict[str, list[Option]]:
    """Return, for every name, the options that it may mean."""
    kinds = _kinds(data)
    index: dict[str, list[Option]] = defaultdict(list)
    for option in [*_choices(kinds), *_fields(data)]:
        index[option.names[0]].append(option)
    taken = RESERVED | index.keys()
    for path, (role, kind) in kinds.items():
        for name, field in ROLES[role].spec(kind).model_fields.items():
            if name == "kind":
                continue
            dotted = [f"{kind}.{name}", f"loss.{name}"] if role == "loss" else [f"{role}.{name}"]
            names = (*dotted, *(() if name in taken else (name,)))
            option = _option(names, field, f"{role} {kind}", (*path, name), data)
            for each in names:
                index[each].append(option)
    return dict(index)


def _choices(kinds: Mapping[Path, tuple[str, str]]) -> list[Option]:
    options = []
    for role, components in ROLES.items():
        names = components.kinds() if role != "loss" else (*components.kinds(), *registry.likelihoods.kinds())
        chosen = [kind for one, kind in kinds.values() if one == role]
        field = SECTIONS[_section(role)].model_fields[role]
        default = ",".join(chosen) or None
        type_ = Literal[names]
        options.append(Option((role,), type_, default, False, field.description or "", "components", (_section(role), role)))
    return options


def _fields(data: Mapping[str, Any]) -> list[Option]:
    """Return the options that are fields of a spec."""
    options = [
        _option((name,), field, section, (section, name), data)
        for section, spec in SECTIONS.items()
        for name, field in spec.model_fields.items()
        if name not in ROLES and name != "augment"
    ]
    return options + [
        _option((f"augment.{name}",), field, "augment", ("data", "augment", name), data)
        for name, field in AugmentSpec.model_fields.items()
    ]


def _option(names: tuple[str, ...], field: FieldInfo, owner: str, path: Path, data: Mapping[str, Any]) -> Option:
    current: Any = data
    for part in path:
        if isinstance(current, list):
            current = current[int(part)]
        elif isinstance(current, Mapping) and part in current:
            current = current[part]
        else:
            type_ = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
            return Option(names, type_, field.default, field.is_required(), field.description or "", owner, path)
    type_ = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return Option(names, type_, current, False, field.description or "", owner, path)
