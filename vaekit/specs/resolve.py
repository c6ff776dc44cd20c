"""The single place of defaults: completes a partial spec.

Resolving is a pure function of plain data: it chooses no device, reads no dataset and builds no network.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from copy import deepcopy
from typing import Any

from vaekit import roles
from vaekit.errors import SpecError, UnknownComponentError, UsageError, plain
from vaekit.interfaces import Declaration, Posterior, Prior
from vaekit.registry import Registry
from vaekit.schema import ComponentSpec, Spec
from vaekit.specs.models import SECTIONS, ModelSpec, RunSpec, component_data, validated

ROLES = {components.role: components for components in roles.SPEC_REGISTRIES}
DEFAULTS = {"posterior": "gaussian", "condition": "none", "dataset": "digits"}
"""Default components that depend on no other choice; the others are chosen in `choose_components`."""
SEVERAL = frozenset({"loss", "logger"})
"""The roles that can have several components in a run."""

Data = dict[str, Any]


def section_of(role: str) -> str:
    """Return the section of a spec that contains the components of a role."""
    return {"dataset": "data", "logger": "train"}.get(role, "model")


def resolve(spec: RunSpec | Mapping[str, Any], source: str = "the spec") -> RunSpec:
    """Complete a spec given as plain data; resolving is idempotent.

    The encoder, the number of latents, the likelihood and the binarisation default to the dataset's choice, but pixels are
    binarised only for a likelihood of binary pixels. The decoder defaults to the encoder's kind, or to ``cnn`` if no decoder has
    that name. The prior defaults to the posterior's choice, and the posterior's default loss, such as ``kl``, is added if no loss
    covers the divergence and training can change it.

    Args:
        spec: The sections ``model``, ``data`` and ``train``, any of them partial.
        source: The name of the spec in error messages.

    Raises:
        SpecError: A field is unknown or of the wrong type; the message lists the path of each, such as ``loss.beta``.
        UnknownComponentError: A component's name is not registered.
        UsageError: The chosen components do not fit together; the message names them, the reason and a remedy.
    """
    try:
        data = choose_components(spec)
    except SpecError as error:
        message = f"{source} is not valid: {error.message}"
        raise SpecError(message, given=error.given, expected=error.expected, remedy=error.remedy) from None
    return complete(data, source)


def choose_components(spec: RunSpec | Mapping[str, Any], chosen: Mapping[str, Any] | None = None) -> Data:
    """Return plain data in which every component is a mapping with ``kind``: as chosen, else as in the spec, else the default.

    Args:
        spec: The spec to start from.
        chosen: Components by role that override the spec's; a component of the same kind keeps the options it has in the spec.
    """
    if not isinstance(spec, RunSpec | Mapping):
        raise SpecError("it is not a mapping", given=type(spec).__name__, expected="sections model, data and train")
    data: Data = deepcopy(spec.model_dump(mode="json") if isinstance(spec, RunSpec) else dict(spec))
    for section in SECTIONS:
        data[section] = _mapping(data.get(section), section)
    model, chosen = data["model"], chosen or {}
    data["data"]["augment"] = _mapping(data["data"].get("augment"), "augment")

    losses, likelihoods = _terms(model)
    if "loss" in chosen or "likelihood" in chosen:
        new_losses, new_likelihoods = _terms(chosen)
        if "likelihood" in chosen or new_likelihoods:
            likelihoods = [_kept(likelihood, likelihoods) for likelihood in new_likelihoods]
        if "loss" in chosen:
            losses = [_kept(loss, losses) for loss in new_losses]
    if len(likelihoods) > 1:
        names = " and ".join(repr(likelihood["kind"]) for likelihood in likelihoods)
        raise SpecError("a model has exactly one likelihood", given=names, remedy="keep one of them")
    model["loss"] = losses

    loggers = _components("logger", data["train"].get("logger"))
    data["train"]["logger"] = [_kept(logger, loggers) for logger in _components("logger", chosen.get("logger", loggers))]

    for role in ("dataset", "encoder", "posterior", "prior", "condition", "decoder"):
        held = data[section_of(role)]
        default = DEFAULTS.get(role) or _default_of(role, data)
        [before] = _components(role, held.get(role)) or [{"kind": default}]
        [now] = _components(role, chosen.get(role, before)) or [{"kind": default}]
        held[role] = _kept(now, [before])

    dataset = roles.datasets.get(data["data"]["dataset"]["kind"])
    if dataset.default_latent_dim is not None:
        model.setdefault("latent_dim", dataset.default_latent_dim)
    model["likelihood"] = likelihoods[0] if likelihoods else component_data("likelihood", dataset.default_likelihood)
    if data["data"].get("binarize") is None:
        scores = roles.likelihoods.get(model["likelihood"]["kind"]).scores
        data["data"]["binarize"] = dataset.default_binarize if scores == "binary" else "none"
    return data


def complete(data: Data, source: str) -> RunSpec:
    """Validate plain data with all components chosen, add the posterior's default loss, and check that the parts fit.

    No loss is added if everything that the divergence depends on is frozen.
    """
    spec = validated(data, source)
    model, losses = spec.model, spec.model.loss
    posterior, prior = roles.posteriors.get(model.posterior.kind), roles.priors.get(model.prior.kind)
    declared = [_declaration(loss) for loss in losses]
    constant = set(spec.train.freeze) >= {"encoder", "posterior", "prior", "condition"}
    covered = constant or any("divergence" in each.covers for each in declared)
    if posterior.default_loss is not None and not covered:
        losses = (*losses, roles.losses.spec(posterior.default_loss).model_validate({}))
        declared.append(_declaration(losses[-1]))
        spec = spec.model_copy(update={"model": model.model_copy(update={"loss": losses})})
    _check_kinds("loss", losses)
    _check_kinds("logger", spec.train.logger)
    _check_fit(spec.model, declared, posterior, prior)
    _check_missing(spec)
    return spec


def chosen_components(data: Mapping[str, Any]) -> list[tuple[str, str, tuple[str | int, ...]]]:
    """Return the role, kind and path of every component in the result of `choose_components`."""
    found: list[tuple[str, str, tuple[str | int, ...]]] = []
    for role in ROLES:
        section = section_of(role)
        held = data[section][role]
        if role in SEVERAL:
            found += [(role, component["kind"], (section, role, i)) for i, component in enumerate(held)]
        else:
            found.append((role, held["kind"], (section, role)))
    return found


def _default_of(role: str, data: Mapping[str, Any]) -> str:
    """Return the default encoder of the dataset, prior of the posterior, or decoder for the encoder."""
    model = data["model"]
    if role == "encoder":
        return roles.datasets.get(data["data"]["dataset"]["kind"]).default_encoder
    if role == "prior":
        return roles.posteriors.get(model["posterior"]["kind"]).default_prior
    encoder: str = model["encoder"]["kind"]
    return encoder if encoder in roles.decoders else "cnn"


def _mapping(value: Any, name: str) -> Data:
    if isinstance(value, Mapping | Spec):
        return dict(value)
    if value is not None:
        raise SpecError(f"{name} is not a mapping", given=plain(repr(value), 100))
    return {}


def _terms(model: Mapping[str, Any]) -> tuple[list[Data], list[Data]]:
    """Return the losses and likelihoods named by ``loss`` and ``likelihood``; ``loss`` may name a likelihood, too.

    Raises:
        UnknownComponentError: A name is neither a loss nor a likelihood.
    """
    losses: list[Data] = []
    likelihoods: list[Data] = []
    for term in _components("loss", model.get("loss")):
        if term["kind"] not in roles.losses and term["kind"] not in roles.likelihoods:
            raise _unknown_loss(term["kind"])
        (likelihoods if term["kind"] in roles.likelihoods else losses).append(term)
    return losses, likelihoods + _components("likelihood", model.get("likelihood"))


def _components(role: str, value: Any) -> list[Data]:
    """Return the components in a field of a spec; empty if the field requests the default."""
    if value is None or (value == "none" and role in {"decoder", "likelihood", "logger"}):
        return []
    if isinstance(value, list | tuple) and role in SEVERAL:
        return [component_data(role, item) for item in value if (role, item) != ("logger", "none")]
    return [component_data(role, value)]


def _kept(chosen: Data, before: Iterable[Data]) -> Data:
    """Return the spec's component of the same kind, with its options, if only a name was chosen."""
    return next((old for old in before if chosen == {"kind": old["kind"]}), chosen)


def _unknown_loss(kind: str) -> UnknownComponentError:
    names = (*roles.losses.kinds(), *roles.likelihoods.kinds())
    near = difflib.get_close_matches(kind, names, n=1)
    return UnknownComponentError(
        f"unknown loss or likelihood {kind!r}",
        expected=f"a loss ({', '.join(roles.losses.kinds())}) or a likelihood ({', '.join(roles.likelihoods.kinds())})",
        remedy=f"did you mean {near[0]!r}?" if near else "see `vaekit components list`",
    )


def _declaration(loss: ComponentSpec) -> Declaration:
    return roles.losses.get(loss.kind).declare({name: value for name, value in loss if name != "kind"})


def _check_kinds(role: str, components: Iterable[ComponentSpec]) -> None:
    kinds = [component.kind for component in components]
    for kind in dict.fromkeys(kind for kind in kinds if kinds.count(kind) > 1):
        raise UsageError(f"the {role} {kind!r} is given twice", remedy="keep one of them")


def _check_fit(model: ModelSpec, declared: list[Declaration], posterior: type[Posterior], prior: type[Prior]) -> None:
    """Check that posterior, prior and losses fit each other, and that no two losses cover a slot."""
    if posterior.space != prior.space:
        fit = _fitting(roles.priors, lambda cls: cls.space == posterior.space)
        raise UsageError(
            f"the posterior {posterior.kind!r} and the prior {prior.kind!r} are on different spaces",
            given=f"{posterior.space} and {prior.space}",
            remedy=f"use --prior {' or '.join(fit)}" if fit else "use another posterior",
        )
    of_losses = frozenset().union(*(own.requires for own in declared))
    _check_provided(f"the prior {prior.kind!r}", prior.requires, roles.posteriors, posterior, "prior", also=of_losses)
    for loss, own in zip(model.loss, declared, strict=True):
        _check_space(loss.kind, own, posterior)
    for i, (loss, own) in enumerate(zip(model.loss, declared, strict=True)):
        for other, its in zip(model.loss[:i], declared, strict=False):
            if shared := own.covers & its.covers:
                raise UsageError(
                    f"losses {other.kind!r} and {loss.kind!r} both cover the {' and '.join(sorted(shared))}",
                    remedy="keep one of them",
                )
        _check_provided(f"loss {loss.kind!r}", own.requires, roles.posteriors, posterior, "loss", also=prior.requires)
        _check_provided(f"loss {loss.kind!r}", own.requires_of_prior, roles.priors, prior, "loss")


def _check_space(loss: str, declared: Declaration, posterior: type[Posterior]) -> None:
    """Check that a loss is defined on the space of a posterior."""
    spaces = declared.spaces
    if spaces is not None and posterior.space not in spaces:
        fit = _fitting(roles.posteriors, lambda cls: cls.space in spaces and cls.provides >= declared.requires)
        raise UsageError(
            f"loss {loss!r} is not defined on the space of the posterior {posterior.kind!r}",
            given=f"posterior {posterior.kind!r}, whose space is {posterior.space!r}",
            expected=f"a posterior whose space is {' or '.join(map(repr, sorted(spaces)))}",
            remedy=f"use --posterior {' or '.join(fit)}, or another loss" if fit else "use another loss",
        )


def _check_provided(
    who: str,
    required: frozenset[str],
    components: Registry[Any],
    cls: type[Posterior | Prior],
    instead: str,
    *,
    also: frozenset[str] = frozenset(),
) -> None:
    """Check that a posterior or prior provides the capabilities that another component requires of it.

    The error suggests those on the same space that also provide what further components require or, if there are none, all that
    provide what is required.
    """
    if missing := required - cls.provides:
        role = components.role
        fit = _fitting(components, lambda other: other.space == cls.space and other.provides >= required | also)
        fit = fit or _fitting(components, lambda other: other.provides >= required)
        raise UsageError(
            f"{who} needs {', '.join(sorted(missing))}, which the {role} {cls.kind!r} does not provide",
            given=f"{role} {cls.kind!r}, which provides {', '.join(sorted(cls.provides)) or 'no density'}",
            remedy=f"use --{role} {' or '.join(fit)}, or another {instead}" if fit else f"use another {instead}",
        )


def _check_missing(spec: RunSpec) -> None:
    """Check that missing values, if allowed, can be left out."""
    missing, kind = spec.data.missing, spec.model.likelihood.kind
    if missing == "refuse":
        return
    if not roles.likelihoods.get(kind).factorised:
        fit = _fitting(roles.likelihoods, lambda cls: cls.factorised)
        raise UsageError(
            f"missing values cannot be left out of the likelihood {kind!r}, which does not factorise over values",
            given=f"--missing {missing}",
            remedy=f"use --likelihood {' or '.join(fit)}, or --missing refuse",
        )
    if not spec.data.augment.is_off:
        raise UsageError(
            "augmentation needs images without missing values",
            given=f"--missing {missing}",
            remedy="switch augmentation off, or use --missing refuse",
        )


def _fitting(components: Registry[Any], fits: Callable[[Any], bool]) -> list[str]:
    """Return up to five components whose class satisfies a condition, the most common one first.

    Broken plugins are not suggested.
    """
    found: list[str] = []
    first = {"posterior": "gaussian", "prior": "normal", "likelihood": "gaussian"}.get(components.role)
    for kind in sorted(components.kinds(), key=lambda kind: kind != first):
        with suppress(Exception):
            if fits(components.get(kind)):
                found.append(kind)
    return found[:5]
