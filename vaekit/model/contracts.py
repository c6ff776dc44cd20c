"""A dry run of a model before training, which checks the contract of each component."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vaekit import roles
from vaekit.errors import PluginError, UsageError
from vaekit.interfaces import Shape
from vaekit.model.objective import Inputs, Objective
from vaekit.model.vae import appended, params_shape
from vaekit.registry import Registry
from vaekit.specs.models import ModelSpec


@torch.no_grad()
def check_contracts(model: ModelSpec, objective: Objective, inputs: Inputs) -> None:
    """Check the shapes and types of the components' outputs for a small batch.

    Args:
        model: The model section of a spec.
        objective: The objective built from it; its training mode is preserved.
        inputs: The batch.

    Raises:
        PluginError: A component violates its contract; the message names it and its origin.
    """
    assert inputs.x is not None
    vae, num, training = objective.vae, len(inputs.x), objective.training
    _check_modules(model, objective)
    objective.eval()
    latents, images = (num, vae.latent_dim), (num, *vae.data_shape)
    c = vae.condition_on(inputs.y)
    if c is not None:
        _checked(roles.conditions, model.condition.kind, "its output", c, (num, vae.condition.size))
    shape = (num, *params_shape(vae.posterior, vae.latent_shape))
    params = _checked(roles.encoders, model.encoder.kind, "its output", vae.encoder(appended(inputs.x, c)), shape)
    q = vae.posterior(params.reshape(num, *vae.posterior.param_shape), vae)
    z = q.rsample(inputs.noise[(0,) * len(objective.samples)])
    _checked(roles.posteriors, model.posterior.kind, "a sample", z, latents)
    draws = vae.sample_latent(num, generator=torch.Generator(vae.device))
    _checked(roles.priors, model.prior.kind, "a sample", draws, latents)
    codes = _checked(roles.posteriors, model.posterior.kind, "the decoder's input", vae.posterior.decoder_input(z), latents)
    outputs = vae.decoder(appended(codes.reshape(num, *vae.latent_shape), c))
    _checked(roles.decoders, model.decoder.kind, "its output", outputs, (num, *vae.likelihood.param_shape))
    p = vae.likelihood(outputs)
    _checked(roles.likelihoods, model.likelihood.kind, "its mean", p.mean, images)
    _checked(roles.likelihoods, model.likelihood.kind, "its log_prob", p.log_prob(inputs.target), (num,), finite=False)
    for kind, draw in (inputs.draws or {}).items():
        shape = draw.shape[1:] if isinstance(draw, Tensor) else ()
        _checked(roles.losses, kind, "its noise", draw, (num, *shape))
    trace = objective.trace(inputs)
    for name, (kind, _) in objective.terms.items():
        loss: Any = objective.losses[kind]
        if kind in roles.losses:
            value: Any = objective.value_of(name, trace)
            scalar = loss.batch_statistic and isinstance(value, Tensor) and value.ndim == 0
            _checked(roles.losses, kind, f"its term {name!r}", value, () if scalar else (num,), finite=False)
    objective.train(training)


def check_players(objective: Objective, inputs: Inputs) -> None:
    """Check that each loss has parameters to train, and that each trained part of the model receives a gradient.

    Args:
        objective: The objective; its training mode is preserved.
        inputs: A small batch.

    Raises:
        UsageError: A loss has no parameters to train, or no loss has a gradient with respect to a player's parameters.
    """
    frozen = f"; frozen: {', '.join(objective.frozen)}" if objective.frozen else ""
    trained = {term for player in objective.players for term in player.aims}
    # An aim outside the objective may be idle, such as that of a prior without parameters.
    judged = {term: aim for term, (_, aim) in objective.terms.items() if aim.judged}
    idle = {term: aim.moves or aim.own for term, aim in judged.items() if term not in trained}
    if idle:
        raise UsageError(
            "a loss has nothing to train: its parts of the model are frozen or have no parameters",
            given="; ".join(f"{term} trains {', '.join(parts)}" for term, parts in idle.items()) + frozen,
            remedy="freeze fewer parts, or remove the loss" if frozen else "remove the loss",
        )
    training = objective.training
    total, *_ = objective.eval()(inputs)
    objective.train(training)
    names = list(objective.owner)
    parameters = [objective.get_parameter(name) for name in names]
    gradients = torch.autograd.grad(total, parameters, allow_unused=True) if total.requires_grad else [None] * len(names)
    reached = {_part_of(name) for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
    if unreached := [part for part in dict.fromkeys(map(_part_of, names)) if part not in reached]:
        raise UsageError(
            f"no loss depends on the {unreached[0]}, so it would never be trained",
            given=f"terms {', '.join(objective.terms)}{frozen}",
            remedy="use a part without parameters, or add a loss that depends on it, for example kl for the prior",
        )


def _part_of(name: str) -> str:
    """Return the part of the model, or the loss, to which a parameter of an objective belongs."""
    return name.split(".")[1]


def _check_modules(model: ModelSpec, objective: Objective) -> None:
    """Check that components can be trained and saved; errors name the plugin responsible."""
    for components in (roles.encoders, roles.decoders, roles.posteriors, roles.priors, roles.likelihoods, roles.conditions):
        module = getattr(objective.vae, components.role)
        with components.blaming(getattr(model, components.role).kind):
            module.train(module.training)
            module.state_dict()
            sum(parameter.numel() for parameter in module.parameters())  # fails for lazy parameters, which have no shape yet


def _checked(components: Registry[Any], kind: str, what: str, value: Any, shape: Shape, *, finite: bool = True) -> Tensor:
    """Return a component's output after checking its dtype, shape and, if required, finiteness.

    The log-likelihood need not be finite, since the example images may lie outside the support.
    """
    expected = f"{torch.get_default_dtype()} of shape {tuple(shape)}"
    if not isinstance(value, Tensor):
        given = type(value).__name__
    else:
        given = f"{value.dtype} of shape {tuple(value.shape)}"
        if value.layout != torch.strided or value.is_meta:
            given += f", {'on the meta device' if value.is_meta else 'sparse'}"
        if finite and given == expected and not value.isfinite().all():
            given, expected = "NaN or infinity", "finite numbers"
        elif given == expected:
            return value
    raise PluginError(
        f"the {components.role} {kind!r} of {components.origin(kind)} violates its contract: {what} for a batch of images",
        given=given,
        expected=expected,
        remedy=f"fix it; `vaekit plugins check {components.role}:{kind}` runs all checks",
    )
