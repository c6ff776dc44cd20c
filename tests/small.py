"""Small models of every component, for tests that walk the registries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vaekit import roles
from vaekit.interfaces import Capability, required_of_prior
from vaekit.registry import Registry

PARTS: tuple[Registry[Any], ...] = (
    roles.encoders,
    roles.decoders,
    roles.posteriors,
    roles.priors,
    roles.likelihoods,
    roles.conditions,
    roles.losses,
)
"""The registries of what a model and its objective consist of."""


def fitting_posterior(role: str, kind: str) -> str:
    """Return a posterior that a prior or a loss can be used with: the default one if it can."""
    same = [kind] if role == "prior" and kind in roles.posteriors else []
    for posterior in ("gaussian", *same, *roles.posteriors.kinds()):
        cls = roles.posteriors.get(posterior)
        if role == "prior" and roles.priors.get(kind).space == cls.space:
            return posterior
        if role == "loss" and roles.losses.get(kind).requires <= cls.provides:
            return posterior
    return "gaussian"


def fitting_prior(role: str, kind: str) -> dict[str, str]:
    """Return a choice of a prior that can be learned for a loss that trains nothing else; none for other components."""
    if role != "loss":
        return {}
    cls = roles.losses.get(kind)
    aims = roles.losses.build(roles.losses.spec(kind)(), latent_dim=2, data_shape=(1, 8, 6), num_classes=3).aims()
    alone = bool(aims) and all(aim.moves == ("prior",) and not aim.own for aim in aims.values())
    required = required_of_prior(cls.requires) if cls.requires_of_prior is None else cls.requires_of_prior
    fitting = (prior for prior in ("mixture", *roles.priors.kinds()) if required <= roles.priors.get(prior).provides)
    return {"prior": next(fitting)} if alone else {}


def fitting_loss(role: str, kind: str) -> dict[str, str]:
    """Return a choice of the loss that fits a prior without a density; none for other components."""
    without = role == "prior" and Capability.LOG_PROB not in roles.priors.get(kind).provides
    return {"loss": roles.priors.get(kind).fitted_by} if without else {}


OPTIONS: dict[str, Any] = {
    "hidden": (8,),
    "channels": (4, 8),
    "mode": "offline",
    "num_codes": 8,
    "num_exemplars": 8,
    "transforms": 2,
    "num_bounds": 2,
    "num_samples": 3,
    "num_stages": 2,
    "width": 8,
    "bins": 16,
}


def small(registry: Registry[Any], kind: str) -> dict[str, Any]:
    """Return options that make a component small, and keep it off the network, where it has them."""
    return {name: value for name, value in OPTIONS.items() if name in registry.spec(kind).model_fields}


def small_parts(chosen: Mapping[str, str]) -> dict[str, Any]:
    """Return the options of a run that choose components by role and make them small."""
    registries = {registry.role: registry for registry in roles.REGISTRIES}
    parts = {f"{role}.{name}": value for role, kind in chosen.items() for name, value in small(registries[role], kind).items()}
    return {**chosen, **parts}
