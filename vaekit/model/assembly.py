"""Builds a model and its objective from a complete spec; all choices are made in `vaekit.specs.resolve`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from vaekit import roles
from vaekit.data.batches import Batch, Batches
from vaekit.data.facts import Facts
from vaekit.data.sources import ImageSource, Splits, sample_of
from vaekit.errors import UsageError
from vaekit.interfaces import Condition, Likelihood, Loss, Module, Posterior, Prior, Shape
from vaekit.model.contracts import check_contracts, check_players
from vaekit.model.objective import Inputs, Objective, Reconstruction
from vaekit.model.vae import VAE, params_shape, widened
from vaekit.nn.missing import FillMissing
from vaekit.schema import ModelPart
from vaekit.specs.models import ModelSpec, RunSpec
from vaekit.streams import Streams, derive_seed

INITIAL_NUMBERS = 2**26
"""Maximum number of values in the training images for initial states, if there are more than 1,024 images."""


def assemble(spec: RunSpec, splits: Splits) -> Objective:
    """Build the objective of a spec, with its model, on the CPU, initialised with the spec's seed.

    State that is initialised from training images is set later, when a run begins; see `initial_state`.

    Raises:
        PluginError: A component violates the contract of its role.
        UsageError: A loss has no parameters to train, or no loss depends on a trained part.
    """
    vae = build_vae(spec.model, splits.facts, seed=spec.train.seed)
    objective = build_objective(
        spec.model,
        vae,
        num_data=len(splits.train),
        num_classes=splits.facts.num_classes,
        seed=spec.train.seed,
        frozen=spec.train.freeze,
    )
    inputs = example_inputs(objective)
    check_contracts(spec.model, objective, inputs)
    check_players(objective, inputs)
    if _is_constant("reconstruction", objective, inputs):
        losses = {name: cast("Loss", loss) for name, loss in objective.losses.items() if name != "reconstruction"}
        objective = Objective(vae, losses, num_data=objective.num_data, frozen=objective.frozen)
    objective.encodes = _moves(objective, "encoder", "condition")
    objective.sees_images = _sees_images(objective, inputs)
    return objective


def _is_constant(term: str, objective: Objective, inputs: Inputs) -> bool:
    """Whether a term of an objective is constant in training because it depends only on frozen parts."""
    learners = [name for name in objective.learners if name.startswith("vae.") and name != "vae.prior"]
    if term not in objective.terms or not objective.frozen or learners:
        return False
    with torch.enable_grad():
        return not objective.value_of(term, objective.trace(inputs)).requires_grad


def _moves(objective: Objective, *parts: ModelPart) -> bool:
    """Whether any of several parts of the model has parameters that are trained."""
    return any(True for part in parts if part not in objective.frozen for _ in objective.vae.get_submodule(part).parameters())


@torch.no_grad()
def _sees_images(objective: Objective, inputs: Inputs) -> bool:
    """Whether a training step needs images, since posterior parameters do not suffice or change in training."""
    if objective.encodes or _moves(objective, "likelihood"):
        return True
    vae, training = objective.vae, objective.training
    objective.eval()
    try:
        assert inputs.x is not None
        params = vae.params_of(inputs.x, vae.condition_on(inputs.y))
        trace = objective.trace(inputs._replace(x=None, target=None, params=params))
        for name in objective.terms:
            objective.value_of(name, trace)
        objective.next_state(trace)
    except Exception:  # any failure without images
        return True
    finally:
        objective.train(training)
    return False


def build_vae(model: ModelSpec, facts: Facts, *, seed: int | None = None) -> VAE:
    """Build the networks of a model, on the CPU.

    Args:
        model: The model section of a spec.
        facts: The facts about its data.
        seed: The seed of the initial weights, which preserves torch's global generator; default: draw from that generator.
    """
    data_shape, latent_shape = facts.data_shape, latent_shape_of(model, facts)
    latent_dim = math.prod(latent_shape)
    with _seeded(seed, "initial weights"):
        likelihood: Likelihood = roles.likelihoods.build(model.likelihood, data_shape=data_shape)
        posterior: Posterior = roles.posteriors.build(model.posterior, latent_dim=latent_dim, latent_shape=latent_shape)
        condition: Condition = roles.conditions.build(model.condition, num_classes=facts.num_classes)
        prior: Prior = roles.priors.build(
            model.prior,
            latent_dim=latent_dim,
            latent_shape=latent_shape,
            data_shape=data_shape,
            code_sizes=posterior.code_sizes,
            condition_size=condition.size,
        )
        in_shape, out_shape = widened(data_shape, condition.size), params_shape(posterior, latent_shape)
        encoder = _encoder(model, facts, in_shape, out_shape)
        in_shape = widened(latent_shape, condition.size)
        decoder = roles.decoders.build(model.decoder, in_shape=in_shape, out_shape=likelihood.param_shape)
        return VAE(
            encoder,
            decoder,
            posterior=posterior,
            prior=prior,
            likelihood=likelihood,
            condition=condition,
            latent_shape=latent_shape,
            value_range=facts.value_range,
            missing=facts.missing != "refuse",
        )


def _encoder(model: ModelSpec, facts: Facts, in_shape: Shape, out_shape: Shape) -> nn.Module:
    """Build the encoder of a model, wrapped to fill missing values if there may be any."""
    if facts.missing == "refuse":
        return roles.encoders.build(model.encoder, in_shape=in_shape, out_shape=out_shape)
    channels = facts.data_shape[0] if facts.missing == "channel" else 0
    encoder = roles.encoders.build(model.encoder, in_shape=widened(in_shape, channels), out_shape=out_shape)
    return FillMissing(encoder, in_shape, out_shape, channels=channels)


def latent_shape_of(model: ModelSpec, facts: Facts) -> Shape:
    """Return the shape of the latents: a vector, or a grid with a position for every ``latent_stride`` pixels.

    Raises:
        UsageError: The data have no spatial dimensions.
    """
    channels, stride = model.latent_dim, model.latent_stride
    if stride is None:
        return (channels,)
    if len(facts.data_shape) == 1:
        raise UsageError(
            "a grid of latents needs data with spatial dimensions", given=f"latent_stride {stride}, data of {facts.data_shape}"
        )
    return (channels, *(math.ceil(side / stride) for side in facts.data_shape[1:]))


def build_objective(
    model: ModelSpec,
    vae: VAE,
    *,
    num_data: int | None = None,
    num_classes: int | None = None,
    seed: int | None = None,
    frozen: Sequence[ModelPart] = (),
) -> Objective:
    """Build the objective of a model from its losses.

    Args:
        model: The model section of a spec.
        vae: The model.
        num_data: The size of the dataset.
        num_classes: The number of classes; None without labels.
        seed: The seed of the initial weights of the losses' own networks; see `build_vae`.
        frozen: Parts of the model that are not trained.
    """
    with _seeded(seed, "initial weights of losses"):
        wiring = {"latent_dim": vae.latent_dim, "data_shape": vae.data_shape, "num_classes": num_classes}
        losses: dict[str, Loss] = {spec.kind: roles.losses.build(spec, **wiring) for spec in model.loss}
    if not any("reconstruction" in loss.covers for loss in losses.values()):
        losses = {"reconstruction": Reconstruction(), **losses}
    return Objective(vae, losses, num_data=num_data, frozen=frozen)


@torch.no_grad()
def initial_state(spec: RunSpec, objective: Objective, source: ImageSource) -> dict[str, Tensor]:
    """Return the parameters and buffers initialised from training images, by name; see `Module.initial_state`.

    Args:
        spec: A complete spec.
        objective: The objective built from it, which is not modified.
        source: The training images.
    """
    parts = {
        name: module
        for name, module in objective.named_modules()
        if isinstance(module, Module) and type(module).initial_state is not Module.initial_state
    }
    if not parts:
        return {}
    most = min(max(part.num_initial for part in parts.values()), INITIAL_NUMBERS // math.prod(source.shape))
    num, vae, training = max(most, Module.num_initial), objective.vae, objective.training
    index = sample_of(len(source), num)
    batches = Batches(source, batch_size=num, streams=Streams(spec.train.seed), binarize=spec.data.binarize, train=False)
    x, y = batches.fixed(index).to(vae.device), None if source.labels is None else source.labels[index].to(vae.device)
    generator = Streams(spec.train.seed).generator("initial state", 0, vae.device)
    vae.chunk, before = Module.num_initial, vae.chunk
    trace = objective.eval().vae(x, y=y, num_data=objective.num_data, generator=generator, decode=False)
    objective.train(training)
    vae.chunk = before
    return {f"{name}.{own}": value for name, part in parts.items() for own, value in part.initial_state(trace).items()}


@contextmanager
def _seeded(seed: int | None, stream: str) -> Iterator[None]:
    """Seed torch's global generator within the context; None leaves it unchanged."""
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(derive_seed(seed, stream, 0))
        yield


def example_inputs(objective: Objective) -> Inputs:
    """Return example inputs of an objective: three images with noise and labels, at the start of training."""
    vae = objective.vae
    x = torch.rand(3, *vae.data_shape, generator=torch.Generator().manual_seed(0)).to(vae.device)
    y = torch.zeros(3, dtype=torch.int64, device=vae.device)
    batch = Batch(x, x, y, torch.arange(3, device=vae.device))
    return objective.inputs_of(batch, Streams(0), 0, epoch=torch.zeros((), device=vae.device))
