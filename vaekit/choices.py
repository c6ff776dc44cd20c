"""Which components a spec file, the options over it and the defaults choose."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from vaekit import registry
from vaekit.assembly import default_decoder
from vaekit.errors import SpecError
from vaekit.schema import ComponentSpec, Spec
from vaekit.specs import RunSpec, at_most_one_likelihood, sort_terms

ROLES = {components.role: components for components in registry.SPEC_REGISTRIES}
SEVERAL = frozenset({"loss", "logger"})
"""Roles that several components of a run may have."""
SECTIONS: dict[str, Any] = {name: field.annotation for name, field in RunSpec.model_fields.items()}

Path = tuple[str | int, ...]


def section_of(role: str) -> str:
    """Return the section of a spec where components of a role lie."""
    return {"dataset": "data", "logger": "train"}.get(role, "model")


def choose(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the file's data with every component that it, the options or the defaults choose, as a mapping with ``kind``."""
    data = deepcopy(dict(base))
    for section in SECTIONS:
        data[section] = _mapping(data.get(section), section)
    model = data["model"]
    data["data"]["augment"] = _mapping(data["data"].get("augment"), "augment")
    losses, likelihoods = sort_terms(_components("loss", model.get("loss")))
    likelihoods += _components("likelihood", model.get("likelihood"))
    new_losses, new_likelihoods = sort_terms(_components("loss", given.get("loss")))
    new_likelihoods += _components("likelihood", given.get("likelihood"))
    if "likelihood" in given or new_likelihoods:
        likelihoods = [_kept(likelihood, likelihoods) for likelihood in new_likelihoods]
    model["loss"] = [_kept(loss, losses) for loss in new_losses] if "loss" in given else losses
    model["likelihood"] = at_most_one_likelihood(likelihoods)

    loggers = _components("logger", data["train"].get("logger"))
    data["train"]["logger"] = [_kept(logger, loggers) for logger in _components("logger", given.get("logger", loggers))]

    for role in ("encoder", "posterior", "prior", "dataset", "decoder"):
        section = section_of(role)
        default = SECTIONS[section].model_fields[role].default or default_decoder(model["encoder"]["kind"])
        [before] = _components(role, data[section].get(role)) or [{"kind": default}]
        [chosen] = _components(role, given.get(role, before)) or [{"kind": default}]
        data[section][role] = _kept(chosen, [before])
    if model["likelihood"] is None:
        model["likelihood"] = {"kind": registry.datasets.get(data["data"]["dataset"]["kind"]).default_likelihood}
    return data


def chosen_components(data: Mapping[str, Any]) -> list[tuple[str, str, Path]]:
    """Return role, kind and place of every component."""
    found: list[tuple[str, str, Path]] = []
    for role in ROLES:
        section = section_of(role)
        held = data[section][role]
        if role in SEVERAL:
            found += [(role, component["kind"], (section, role, i)) for i, component in enumerate(held)]
        else:
            found.append((role, held["kind"], (section, role)))
    return found


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if isinstance(value, Mapping | Spec):
        return dict(value)
    if value is not None:
        raise SpecError(f"{name} is not a mapping", given=repr(value))
    return {}


def _components(role: str, value: Any) -> list[dict[str, Any]]:
    """Return the components that a field of a spec holds, each as a mapping with ``kind``; none where it asks for the default."""
    if value is None or (value == "none" and role in {"decoder", "likelihood", "logger"}):
        return []
    if isinstance(value, list | tuple) and role in SEVERAL:
        return [component for item in value for component in _components(role, item)]
    if isinstance(value, ComponentSpec):
        value = value.model_dump()
    if isinstance(value, str):
        return [{"kind": value}]
    if not isinstance(value, Mapping) or not isinstance(value.get("kind"), str):
        raise SpecError(f"{role}: a {role} is a name, or a mapping with `kind` and options", given=repr(value))
    return [dict(value)]


def _kept(chosen: dict[str, Any], before: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the file's component of the same kind, options and all, where only a name was chosen."""
    return next((old for old in before if chosen == {"kind": old["kind"]}), chosen)
