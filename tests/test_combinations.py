"""Any registered parts train together or are rejected before data are read, with the names of both."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from small import fitting_posterior, fitting_prior, small, small_parts

from vaekit import roles
from vaekit.data.facts import Facts
from vaekit.data.specs import Missing
from vaekit.errors import UsageError
from vaekit.interfaces import Capability, Declaration, Loss, Posterior, Shape
from vaekit.model.assembly import build_objective, build_vae, example_inputs
from vaekit.model.contracts import check_contracts, check_players
from vaekit.model.objective import Objective
from vaekit.registry import Registry
from vaekit.specs.models import ModelSpec
from vaekit.specs.options import build_spec

SHAPE, CLASSES = (2, 5, 4), ("a", "b", "c")
OTHER_SHAPES = [(7,), (2, 9), (2, 3, 5, 4)]
"""The shapes of a table row, a signal and a volume."""
BETWEEN = [roles.posteriors, roles.priors, roles.likelihoods, roles.losses]
"""The roles whose components interact in an objective; backbones interact through shapes only."""


def products(*registries: Registry[Any]) -> list[dict[str, str]]:
    """Return every combination of one component per role."""
    roles_of, choices = [registry.role for registry in registries], [registry.kinds() for registry in registries]
    return [dict(zip(roles_of, kinds, strict=True)) for kinds in itertools.product(*choices)]


def name_of(chosen: dict[str, str]) -> str:
    return "-".join(chosen.values())


def build(model: ModelSpec, facts: Facts) -> Objective:
    """Build a model, check its contracts, and return its objective."""
    objective = build_objective(model, build_vae(model, facts, seed=0), num_data=64, num_classes=len(CLASSES), seed=0)
    check_contracts(model, objective, example_inputs(objective))
    return objective


def train(objective: Objective) -> None:
    """Take a step on grey levels; every parameter receives a finite gradient and the loss remains finite.

    Parameters of the likelihood receive none from a loss that stands in for it, and those of the prior none if there is no loss
    for it, and a loss may have nothing to train: such a model is refused before training. A prior that losses know by its draws
    only receives none by what these do not follow smoothly: the weights of a mixture.
    """
    inputs = example_inputs(objective)
    trained = {term for player in objective.players for term in player.aims}
    if any(aim.judged and term not in trained for term, (_, aim) in objective.terms.items()):
        with pytest.raises(UsageError, match="nothing to train"):
            check_players(objective, inputs)
        return
    grey = (inputs.x * 255).round() / 255
    if objective.vae.missing:
        grey.view(-1)[::3] = torch.nan
    inputs = inputs._replace(x=grey, target=grey)
    total, terms, _ = objective(inputs)
    total.backward()
    assert all(term.isfinite() for term in terms.values()), terms
    covered = {slot for loss in objective.losses.values() if isinstance(loss, Loss) for slot in loss.covers}
    may_idle = {"likelihood"} if "reconstruction" in covered else set()
    may_idle |= set() if "divergence" in covered else {"prior"}
    reached = {name.split(".")[1] for name, parameter in objective.named_parameters() if parameter.grad is not None}
    without = {name for name, parameter in objective.named_parameters() if parameter.grad is None}
    idle = {name.split(".")[1] for name in without} - reached
    if idle and idle <= may_idle:
        with pytest.raises(UsageError, match=f"no loss depends on the ({'|'.join(idle)})"):
            check_players(objective, inputs)
        return
    assert not without or ("divergence" not in covered and without <= discrete(objective))
    moved = {name for player in objective.players for name in player.names}
    for name, parameter in objective.named_parameters():
        if name in without:
            continue
        assert name in moved, f"nothing trains {name}"
        assert parameter.grad is not None, f"{name} has no gradient"
        assert parameter.grad.isfinite().all(), name
    with torch.no_grad():
        for parameter in objective.parameters():
            if parameter.grad is not None:
                parameter.sub_(1e-3 * parameter.grad.sign())
        assert all(term.isfinite() for term in objective(inputs).terms.values())


def discrete(objective: Objective) -> set[str]:
    """Return the parameters of the prior for which its samples have no gradient."""
    vae = objective.vae
    parameters = {f"vae.prior.{name}": parameter for name, parameter in vae.prior.named_parameters()}
    draws = vae.prior(vae).rsample(vae.prior.draw_noise(3, like=next(vae.parameters())))
    gradients = torch.autograd.grad(draws.sum(), list(parameters.values()), allow_unused=True)
    return {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None}


def use(objective: Objective) -> None:
    """Encode, decode, reconstruct and sample."""
    vae = objective.vae.eval()
    x, y = example_inputs(objective).x, example_inputs(objective).y
    if vae.missing:
        x.view(-1)[::3] = torch.nan
    with torch.no_grad():
        z = vae.encode_to_latent(x, y=y, generator=torch.Generator().manual_seed(0))
        images = [vae.decode(z, y), vae.reconstruct(x, y), vae.sample(len(x), generator=torch.Generator().manual_seed(0))]
    assert z.shape == (len(x), vae.latent_dim)
    for image in images:
        assert image.shape == x.shape
        assert image.isfinite().all()


def shape_of(*losses: str) -> Shape:
    """Return a shape that losses support: feature networks need one or three channels."""
    return (3, *SHAPE[1:]) if "perceptual" in losses else SHAPE


def spec_of(loss: str) -> Any:
    """Return the spec of a loss with options that make it small."""
    return roles.losses.spec(loss)(**small(roles.losses, loss))


def required(loss: str) -> dict[str, Any]:
    """Return values of the options of a loss that have no default."""
    fields = roles.losses.spec(loss).model_fields
    return {name: value for name, value in small(roles.losses, loss).items() if fields[name].is_required()}


def walk(
    chosen: dict[str, str],
    losses: tuple[str, ...] = (),
    shape: Shape | None = None,
    missing: Missing = "refuse",
    stride: int | None = None,
) -> UsageError | None:
    """Build, train and use a model of components by role; return the error if it is rejected."""
    options = {"latent_dim": 2, **small_parts({"encoder": "mlp", "decoder": "mlp", **chosen})}
    options |= {"loss": list(losses)} if losses else {}
    options |= {f"{loss}.{name}": value for loss in losses for name, value in required(loss).items()}
    shape = shape or shape_of(*losses, chosen.get("loss", ""))
    try:
        model = build_spec({}, {**options, "missing": missing, "latent_stride": stride}).model
        objective = build(model, Facts(data_shape=shape, missing=missing, class_names=CLASSES))
    except UsageError as error:
        return error
    train(objective)
    use(objective)
    return None


def completed(chosen: dict[str, str]) -> dict[str, str]:
    """Return components that interact in an objective, with compatible components in other roles."""
    posterior = next((fitting_posterior(role, kind) for role, kind in chosen.items() if role in {"prior", "loss"}), "gaussian")
    posterior = chosen.get("posterior", posterior)
    cls = roles.posteriors.get(posterior)
    default = {"prior": cls.default_prior, "likelihood": "bce", "loss": cls.default_loss or "kl"}
    return {"posterior": posterior, **default, **chosen}


def declared_by(loss: str) -> Declaration:
    """Return the declaration of a loss with its default options."""
    return roles.losses.get(loss).declare({name: field.default for name, field in roles.losses.spec(loss).model_fields.items()})


def missing(chosen: dict[str, str], loss: str, *, by: str = "loss prior") -> dict[str, Any]:
    """Return the missing capabilities of posterior and prior, by role."""
    declared, prior = declared_by(loss), roles.priors.get(chosen["prior"])
    of_posterior = {"loss": declared.requires, "prior": prior.requires}
    required = {"posterior": frozenset().union(*(of_posterior[each] for each in by.split())), "prior": declared.requires_of_prior}
    lacks = {registry.role: required[registry.role] - registry.get(chosen[registry.role]).provides for registry in BETWEEN[:2]}
    return {role: lack for role, lack in lacks.items() if lack}


def takes(loss: str, shape: Shape) -> bool:
    """Return whether a loss supports data of a shape."""
    try:
        roles.losses.build(spec_of(loss), latent_dim=2, data_shape=shape, num_classes=3)
    except UsageError:
        return False
    return True


def untrained(chosen: dict[str, str]) -> bool:
    """Return whether the prior has parameters that no aim of the losses trains."""
    loss, posterior = roles.losses.get(chosen["loss"]), roles.posteriors.get(chosen["posterior"])
    if "divergence" in loss.covers or posterior.default_loss is not None:
        return False
    shape = shape_of(chosen["loss"])
    aims = roles.losses.build(spec_of(chosen["loss"]), latent_dim=2, data_shape=shape, num_classes=3).aims()
    shapes = {"latent_dim": 2, "latent_shape": (2,), "data_shape": SHAPE, "code_sizes": (), "condition_size": 0}
    prior = roles.priors.build(roles.priors.spec(chosen["prior"])(), **shapes)
    return bool(aims) and all("prior" not in aim.moves for aim in aims.values()) and any(True for _ in prior.parameters())


def unfit(chosen: dict[str, str]) -> bool:
    """Return whether the posterior's default loss is added and needs a capability that the prior lacks."""
    loss, default = roles.losses.get(chosen["loss"]), roles.posteriors.get(chosen["posterior"]).default_loss
    return default is not None and "divergence" not in loss.covers and "prior" in missing(chosen, default)


def suitable(posterior: type[Posterior], losses: Sequence[str]) -> str | None:
    """Return the posterior's default prior, or the first on its space that provides what losses require; None if none does."""
    required = frozenset().union(*(declared_by(loss).requires_of_prior for loss in losses))
    kinds = [kind for kind in (posterior.default_prior, *roles.priors.kinds()) if roles.priors.get(kind).space == posterior.space]
    return next((kind for kind in kinds if required <= roles.priors.get(kind).provides), None)


def apart(chosen: dict[str, str]) -> bool:
    """Return whether the posterior and the prior are on different spaces."""
    return roles.posteriors.get(chosen["posterior"]).space != roles.priors.get(chosen["prior"]).space


def off(chosen: dict[str, str]) -> bool:
    """Return whether the loss is not defined on the space of the posterior."""
    spaces = roles.losses.get(chosen["loss"]).spaces
    return spaces is not None and roles.posteriors.get(chosen["posterior"]).space not in spaces


@pytest.mark.parametrize(
    "parts",
    [
        *[pair for two in itertools.combinations(BETWEEN, 2) for pair in products(*two)],
        *[three for three in products(roles.posteriors, roles.priors, roles.losses) if not apart(three)],
    ],
    ids=name_of,
)
def test_parts_that_meet_in_an_objective(parts: dict[str, str]) -> None:
    chosen = completed(parts)
    refusal, lacks = walk(chosen), missing(chosen, chosen["loss"])
    assert (refusal is not None) == (apart(chosen) or off(chosen) or bool(lacks) or untrained(chosen) or unfit(chosen)), refusal
    if refusal is not None and off(chosen) and not apart(chosen) and not missing(chosen, chosen["loss"], by="prior"):
        assert all(repr(chosen[role]) in str(refusal) for role in ("posterior", "loss"))
    elif refusal is not None and not apart(chosen) and not lacks and unfit(chosen):
        assert f"which the prior {chosen['prior']!r} does not provide" in str(refusal)
    elif refusal is not None and not apart(chosen) and not lacks:
        assert "no loss trains the prior" in str(refusal)
    elif refusal is not None and apart(chosen):
        assert all(repr(chosen[role]) in str(refusal) for role in ("posterior", "prior"))
    elif refusal is not None:
        role = next(iter(lacks))
        by = "loss" if repr(chosen["loss"]) in str(refusal) else "prior"
        assert repr(chosen[by]) in str(refusal)
        assert f"{role} {chosen[role]!r}" in str(refusal)
        lacks = missing(chosen, chosen["loss"], by=by)
        suggestions = re.findall(f"--{role} ([a-z_]+)(?: or ([a-z_]+))*", str(refusal))[0]
        for suggestion in filter(None, suggestions):
            assert len(missing(chosen | {role: suggestion}, chosen["loss"], by=by).get(role, ())) < len(lacks[role])


@pytest.mark.parametrize(
    "chosen",
    [
        *products(roles.encoders, roles.decoders, roles.likelihoods),
        *products(roles.encoders, roles.decoders, roles.conditions),
        *[
            {**chosen, "loss": cls.default_loss}
            for chosen in products(roles.posteriors, roles.priors, roles.conditions)
            if (cls := roles.posteriors.get(chosen["posterior"])).default_loss is not None
            and not apart(chosen)
            and not missing(chosen, cls.default_loss)
        ],
    ],
    ids=name_of,
)
def test_shapes(chosen: dict[str, str]) -> None:
    assert walk(chosen) is None


@pytest.mark.parametrize("shape", OTHER_SHAPES, ids=str)
@pytest.mark.parametrize("chosen", products(roles.encoders, roles.decoders, roles.likelihoods), ids=name_of)
def test_backbones_of_other_shapes(chosen: dict[str, str], shape: Shape) -> None:
    """A backbone that supports images only says so and suggests an alternative; parts that support any shape work together."""
    refusal = walk(chosen, shape=shape)
    if refusal is not None:
        spec = roles.likelihoods.spec(chosen["likelihood"])(**small(roles.likelihoods, chosen["likelihood"]))
        outputs = roles.likelihoods.build(spec, data_shape=shape).param_shape
        assert any(str(each) in str(refusal.given) for each in (shape, outputs))
        assert any(f"{role} {chosen[role]!r}" in str(refusal) for role in ("encoder", "decoder"))
        assert {chosen["encoder"], chosen["decoder"]} != {"mlp"}
        assert "mlp" in str(refusal.remedy)


@pytest.mark.parametrize("shape", [SHAPE, *OTHER_SHAPES[1:]], ids=str)
@pytest.mark.parametrize(
    "chosen", [*products(roles.encoders, roles.decoders), *products(roles.posteriors), *products(roles.priors)], ids=name_of
)
def test_grids_of_latents(chosen: dict[str, str], shape: Shape) -> None:
    (role, kind), *_ = chosen.items()
    posterior = {} if "posterior" in chosen else {"posterior": fitting_posterior(role, kind)}
    losses = ()
    if "prior" in chosen and Capability.LOG_PROB not in roles.priors.get(kind).provides:
        losses = (roles.priors.get(kind).fitted_by,)
    refusal = walk({**posterior, **chosen}, losses, shape=shape, stride=2)
    assert (refusal is not None) == (role == "posterior" and not by_position(kind)), refusal
    assert refusal is None or "does not support grids of latents" in str(refusal)


def by_position(kind: str) -> bool:
    """Return whether the parameters of a posterior end with one number for each latent, as those on a grid must."""
    posterior = roles.posteriors.build(roles.posteriors.spec(kind)(), latent_dim=12, latent_shape=(3, 2, 2))
    return posterior.param_shape[-1] == posterior.latent_dim


@pytest.mark.parametrize(
    ("chosen", "shape"),
    [
        *[(chosen, SHAPE) for chosen in products(roles.likelihoods, roles.losses)],
        *[(chosen, shape) for chosen in (*products(roles.likelihoods), *products(roles.losses)) for shape in OTHER_SHAPES],
    ],
    ids=lambda value: name_of(value) if isinstance(value, dict) else str(value),
)
def test_objectives_of_data_with_missing_values(chosen: dict[str, str], shape: Shape) -> None:
    chosen = {"likelihood": "bce", "loss": "kl", **fitting_prior("loss", chosen.get("loss", "kl")), **chosen}
    posterior = fitting_posterior("loss", chosen["loss"])
    shape = shape_of(chosen["loss"]) if shape == SHAPE else shape
    refusal = walk({"posterior": posterior, **chosen}, shape=shape, missing="channel")
    factorised = roles.likelihoods.get(chosen["likelihood"]).factorised
    assert (refusal is not None) == (not factorised or not takes(chosen["loss"], shape)), refusal


def test_suggested_posteriors_are_on_the_same_space() -> None:
    refusal = walk({"posterior": "delta", "prior": "normal"}, ("kl",))
    assert refusal is not None
    suggested = re.findall(r"[a-z_]+", str(refusal.remedy).partition("--posterior ")[2].partition(",")[0].replace(" or ", " "))
    assert len(suggested) > 1
    assert {roles.posteriors.get(kind).space for kind in suggested} == {"real"}


class OfVectors(Loss):
    """A loss that is not defined on spheres and codes."""

    spaces = frozenset({"real", "ladder"})

    def forward(self, trace: Any) -> torch.Tensor:
        norm: torch.Tensor = trace.z.square().sum(-1)
        return norm


@pytest.mark.parametrize("posterior", roles.posteriors.kinds())
def test_a_loss_names_the_spaces_that_it_is_defined_on(posterior: str) -> None:
    with roles.losses.temporarily(of_vectors=OfVectors):
        cls = roles.posteriors.get(posterior)
        losses = ("of_vectors",) if cls.default_loss is None else ("of_vectors", cls.default_loss)
        refusal = walk({"posterior": posterior, "prior": cls.default_prior}, losses)
    assert (refusal is not None) == (cls.space not in OfVectors.spaces), refusal
    if refusal is not None:
        assert refusal.message == f"loss 'of_vectors' is not defined on the space of the posterior {posterior!r}"
        assert str(refusal.remedy).startswith("use --posterior gaussian or ")


@pytest.mark.parametrize("losses", list(itertools.combinations(roles.losses.kinds(), 2)), ids="-".join)
def test_two_losses(losses: tuple[str, str]) -> None:
    classes = [roles.posteriors.get(fitting_posterior("loss", loss)) for loss in losses]
    cls = next((cls for cls in classes if all(roles.losses.get(loss).requires <= cls.provides for loss in losses)), classes[0])
    prior = suitable(cls, losses)
    refusal = walk({"posterior": cls.kind, "prior": prior or cls.default_prior}, losses)
    both = roles.losses.get(losses[0]).covers & roles.losses.get(losses[1]).covers
    outside = [loss for loss in losses if off({"loss": loss, "posterior": cls.kind})]
    assert (refusal is not None) == bool(both or outside or prior is None), refusal
    if prior is None:
        assert any(repr(loss) in str(refusal) for loss in losses)
    else:
        assert refusal is None or all(repr(loss) in str(refusal) for loss in outside[:1] or losses)
