"""FactorVAE: a model that plays against a critic."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import vaekit
from vaekit.components.losses.factor import Factor
from vaekit.data.facts import Facts
from vaekit.distributions import DiagonalGaussian, StandardNormal
from vaekit.interfaces import Optim
from vaekit.model.assembly import build_objective, build_vae
from vaekit.model.objective import Inputs, Objective
from vaekit.specs.options import build_spec
from vaekit.trace import Site, Trace
from vaekit.training.progress import Silent

SHAPE = (1, 4, 3)
SMALL = {"encoder.hidden": (8,), "decoder.hidden": (8,), "latent_dim": 3, "loss.hidden": (8,)}


def objective_of(**options: Any) -> Objective:
    model = build_spec({}, {**SMALL, "loss": "factor", **options}).model
    return build_objective(model, build_vae(model, Facts(data_shape=SHAPE), seed=0).double(), num_data=100, seed=0).double()


def trace_of(z: torch.Tensor) -> Trace:
    q = DiagonalGaussian(z, torch.zeros_like(z))
    absent: Any = None
    return Trace(absent, (Site(z, q, StandardNormal(z.new_zeros(z.shape[1]))),), absent)


def test_model_and_critic_follow_their_own_losses() -> None:
    objective = objective_of(gamma=5.0)
    x = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64).round()
    noise = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    total, terms, _ = objective(Inputs(x, x, noise, torch.zeros((), dtype=torch.float64)))
    total.backward()
    assert [player.aims for player in objective.players] == [("reconstruction", "factor"), ("critic",)]
    assert objective.players[1].optim == Optim(1e-4, (0.5, 0.9))
    vae, critic = objective.vae, objective.losses["factor"].critic
    trace = vae(x, noise)
    model = (-trace.log_likelihood + trace.kl + 5.0 * critic(trace.z).squeeze(-1)).mean()
    torch.testing.assert_close(terms["loss"], model.detach())
    for parameter, gradient in zip(vae.parameters(), torch.autograd.grad(model, list(vae.parameters())), strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    z = trace.z.detach()
    shuffled = torch.stack([z[:, d].roll(d + 1) for d in range(3)], 1)
    logits, labels = critic(torch.cat([z, shuffled])).squeeze(-1), torch.cat([torch.ones(6), torch.zeros(6)]).double()
    own = F.binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(terms["critic"], own.detach())
    for parameter, gradient in zip(critic.parameters(), torch.autograd.grad(own, list(critic.parameters())), strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_a_trained_critic_estimates_the_total_correlation_of_gaussians() -> None:
    """-log(1 - rho^2) / 2 for two of three latents."""
    rho = 0.9
    with torch.random.fork_rng():
        torch.manual_seed(0)
        loss = Factor(3, hidden=(64, 64))
        optimizer = torch.optim.Adam(loss.critic.parameters(), lr=2e-3)
        factor = torch.linalg.cholesky(torch.tensor([[1.0, rho, 0.0], [rho, 1.0, 0.0], [0.0, 0.0, 1.0]]))
        for _ in range(800):
            optimizer.zero_grad()
            loss.criticise(trace_of(torch.randn(256, 3) @ factor.T)).mean().backward()
            optimizer.step()
        trace = trace_of(torch.randn(20_000, 3) @ factor.T)
    loss(trace)
    assert trace.metrics["total_correlation"].mean().item() == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.1)


class Interrupt(Silent):
    def epoch(self, record: Any) -> None:
        raise KeyboardInterrupt


def test_a_run_of_two_players_resumes_to_the_same_bits_and_stacks(tmp_path: Any) -> None:
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (120, 4, 3), dtype=np.uint8))
    data = {"dataset": "array", "dataset.path": str(tmp_path / "images.npy"), "likelihood": "bce", "binarize": "static"}
    training = {"device": "cpu", "threads": 1, "batch_size": 16, "epochs": 3, "pictures": "none", "compile": "off"}
    options = {**data, **SMALL, **training, "loss": "factor"}
    whole = vaekit.train(**options, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        vaekit.train(**options, out=tmp_path / "cut", reporter=Interrupt())
    resumed = vaekit.resume(tmp_path / "cut")
    assert resumed.folder.model.read_bytes() == whole.folder.model.read_bytes()
    assert resumed.evaluation() == whole.evaluation()
    assert whole.export("onnx").parity.difference < 1e-5
    runs = vaekit.sweep(over={"gamma": (6.0, 20.0)}, **options, stack="on", out=tmp_path / "sweep")
    stacked, alone = runs[0].evaluation(), whole.evaluation()
    assert stacked is not None
    assert alone is not None
    for name in ("loss", "critic", "total_correlation"):
        assert stacked[name] == pytest.approx(alone[name], rel=1e-3, abs=1e-4)
