"""Builds networks and an objective from a complete spec; all choices have been made by `vaekit.specs.resolve`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from vaekit import roles
from vaekit.data.facts import Facts
from vaekit.data.sources import Splits
from vaekit.interfaces import Likelihood, Loss, Posterior, Prior, Shape
from vaekit.model.contracts import check_contracts
from vaekit.model.objective import Inputs, Objective, Reconstruction
from vaekit.model.vae import VAE
from vaekit.nn.missing import FillMissing
from vaekit.specs.models import ModelSpec, RunSpec
from vaekit.streams import derive_seed


def assemble(spec: RunSpec, splits: Splits) -> Objective:
    """Build the model of a spec and the objective for its data, on the CPU, initialised with the spec's seed.

    Raises:
        PluginError: A component does not return what its role promises.
    """
    vae = build_vae(spec.model, splits.facts, seed=spec.train.seed)
    objective = build_objective(spec.model, vae, num_data=len(splits.train), seed=spec.train.seed)
    check_contracts(spec.model, objective, example_inputs(objective))
    return objective


def build_vae(model: ModelSpec, facts: Facts, *, seed: int | None = None) -> VAE:
    """Build the networks of a model, on the CPU.

    Args:
        model: The model section of a spec.
        facts: What it must know about its data.
        seed: The seed of the initial weights, in which case torch's global generator is not affected; default: draw from it.
    """
    latent_dim, data_shape = model.latent_dim, facts.data_shape
    with _seeded(seed, "initial weights"):
        likelihood: Likelihood = roles.likelihoods.build(model.likelihood, data_shape=data_shape)
        posterior: Posterior = roles.posteriors.build(model.posterior, latent_dim=latent_dim)
        prior: Prior = roles.priors.build(model.prior, latent_dim=latent_dim)
        encoder = _encoder(model, facts, posterior.param_shape)
        decoder = roles.decoders.build(model.decoder, in_shape=(latent_dim,), out_shape=likelihood.param_shape)
        return VAE(
            encoder,
            decoder,
            posterior=posterior,
            prior=prior,
            likelihood=likelihood,
            value_range=facts.value_range,
            missing=facts.missing != "refuse",
        )


def _encoder(model: ModelSpec, facts: Facts, out_shape: Shape) -> nn.Module:
    """Build the encoder of a model; if numbers may be missing, one that fills them."""
    shape = facts.data_shape
    if facts.missing == "refuse":
        return roles.encoders.build(model.encoder, in_shape=shape, out_shape=out_shape)
    channel = facts.missing == "channel"
    filled = (2 * shape[0], *shape[1:]) if channel else shape
    encoder = roles.encoders.build(model.encoder, in_shape=filled, out_shape=out_shape)
    return FillMissing(encoder, shape, out_shape, channel=channel)


def build_objective(model: ModelSpec, vae: VAE, *, num_data: int | None = None, seed: int | None = None) -> Objective:
    """Build the objective of a model from its losses.

    Args:
        model: The model section of a spec.
        vae: The model.
        num_data: The size of the dataset.
        seed: The seed of the initial weights of losses that have networks; see `build_vae`.
    """
    with _seeded(seed, "initial weights of losses"):
        losses: dict[str, Loss] = {
            spec.kind: roles.losses.build(spec, latent_dim=vae.latent_dim, data_shape=vae.data_shape) for spec in model.loss
        }
    if not any("reconstruction" in loss.covers for loss in losses.values()):
        losses = {"reconstruction": Reconstruction(), **losses}
    return Objective(vae, losses, num_data=num_data)


@contextmanager
def _seeded(seed: int | None, stream: str) -> Iterator[None]:
    """Seed torch's global generator for a while; with None, leave it as it is."""
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(derive_seed(seed, stream, 0))
        yield


def example_inputs(objective: Objective) -> Inputs:
    """Return inputs for a trial of an objective: three images with noise and labels, at the start of training."""
    vae = objective.vae
    x = torch.rand(3, *vae.data_shape, generator=torch.Generator().manual_seed(0)).to(vae.device)
    noise = objective.samples_first(objective.draw_noise(3, torch.Generator(vae.device), like=x))
    y = torch.zeros(3, dtype=torch.int64, device=vae.device)
    return Inputs(x, x, noise, torch.zeros((), device=vae.device), y)
