"""Losses with critics: the gradients of every player, and the estimates of a trained critic."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import vaekit
from vaekit.components.losses.aae import AAE
from vaekit.data.facts import Facts
from vaekit.distributions import DiagonalGaussian, StandardNormal
from vaekit.errors import UsageError
from vaekit.model.assembly import build_objective, build_vae
from vaekit.model.contracts import check_players
from vaekit.model.objective import Inputs, Objective
from vaekit.specs.options import build_spec
from vaekit.trace import Site, Trace
from vaekit.training.progress import Silent

SHAPE, NUM = (1, 5, 4), 6
SMALL = {"encoder.hidden": (8,), "decoder.hidden": (8,), "latent_dim": 3, "prior.num_components": 2}
CRITICS: dict[str, dict[str, Any]] = {
    "aae": {"aae.hidden": (8,), "aae.weight": 3.0},
    "vae_gan": {"vae_gan.channels": (4, 3), "vae_gan.hidden": (5,), "vae_gan.gamma": 0.7},
    "adversarial": {"adversarial.channels": (4, 3), "adversarial.hidden": (), "adversarial.weight": 3.0},
}


def options_of(kind: str, **options: Any) -> dict[str, Any]:
    options = {"likelihood": "mse", "prior": "normal", **SMALL, **CRITICS[kind], "loss": kind, **options}
    return {name: value for name, value in options.items() if options["prior"] == "mixture" or not name.startswith("prior.")}


def objective_of(
    kind: str, *, shape: tuple[int, ...] = SHAPE, missing: Any = "refuse", frozen: Any = (), **options: Any
) -> Objective:
    spec = build_spec({}, {**options_of(kind, **options), "missing": missing})
    facts = Facts(data_shape=shape, missing=missing, value_range=(-1.0, 3.0), class_names=("a", "b", "c"))
    vae = build_vae(spec.model, facts, seed=0).double()
    return build_objective(spec.model, vae, num_data=100, seed=0, frozen=frozen).double()


def inputs_of(objective: Objective) -> Inputs:
    """Return grey images with noise, all in float64."""
    x, noise, draws = (
        torch.randn(NUM, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for seed, shape in enumerate((objective.vae.data_shape, (3,), (4,)))
    )
    x = 2 * x.sigmoid()
    if objective.vae.prior.kind == "normal":
        draws = draws[:, :3]
    else:
        draws[:, -1] = draws[:, -1].sigmoid()
    held = dict.fromkeys(objective.drawers, draws)
    return Inputs(x, x, noise, torch.zeros((), dtype=torch.float64), torch.arange(NUM) % 3, held)


def assert_gradients(objective: Objective, values: dict[str, torch.Tensor]) -> None:
    """Compare the gradient of each part, by parameter name prefix, with that of the value that it minimises."""
    named, checked = dict(objective.named_parameters()), set()
    for part, value in values.items():
        own = {name: parameter for name, parameter in named.items() if name.startswith(f"{part}.") and name not in checked}
        checked |= own.keys()
        for (name, parameter), expected in zip(
            own.items(), torch.autograd.grad(value, list(own.values()), retain_graph=True), strict=True
        ):
            assert parameter.grad is not None, name
            torch.testing.assert_close(parameter.grad, expected, msg=name)
    assert checked == named.keys()


def log_sigmoid(logits: torch.Tensor) -> torch.Tensor:
    return F.logsigmoid(logits).squeeze(-1)


@pytest.mark.parametrize("prior", ["normal", "mixture"])
@pytest.mark.parametrize("posterior", ["gaussian", "delta"])
def test_players_of_an_adversarial_autoencoder(posterior: str, prior: str) -> None:
    objective = objective_of("aae", posterior=posterior, prior=prior)
    inputs = inputs_of(objective)
    total, terms, _ = objective(inputs)
    total.backward()
    vae, critic = objective.vae, objective.losses["aae"].critic
    trace = vae(inputs.x, inputs.noise)
    model = (-trace.log_likelihood - 3.0 * log_sigmoid(critic(trace.z))).mean()
    torch.testing.assert_close(terms["loss"], model.detach())
    z, p = trace.z.detach(), vae.prior()
    drawn = p.rsample(inputs.draws["aae"]).detach()
    critic_loss = -0.5 * (log_sigmoid(critic(drawn)) + log_sigmoid(-critic(z))).mean()
    torch.testing.assert_close(terms["aae_critic"], critic_loss.detach())
    right = ((critic(drawn) > 0).double() + (critic(z) < 0).double()).mean() / 2
    torch.testing.assert_close(terms["aae_critic_accuracy"], right)
    values = {"vae.encoder": model, "vae.decoder": model, "losses.aae": critic_loss}
    assert_gradients(objective, values | ({"vae.prior": -p.log_prob(z).mean()} if prior == "mixture" else {}))
    assert len(objective.producers) == (1 if prior == "normal" else 2)


def seen(images: torch.Tensor) -> torch.Tensor:
    """Scale images from a range of [-1, 3]."""
    return (images - 1) / 2


def test_players_of_a_vae_gan() -> None:
    options = {"likelihood": "gaussian", "prior": "mixture", "condition": "label", "condition.embedding": 2}
    objective = objective_of("vae_gan", **options)
    inputs = inputs_of(objective)
    total, terms, _ = objective(inputs)
    total.backward()
    vae, critic = objective.vae, objective.losses["vae_gan"].critic
    trace = vae(inputs.x, inputs.noise, y=inputs.y)
    z = vae.prior().rsample(inputs.draws["vae_gan"])
    images = inputs.x, trace.reconstruction, vae.decode(z, inputs.y)
    real, made, drawn = (critic.features(seen(each)) for each in images)
    matching = 0.5 * (real - made).square().sum((1, 2, 3)).mean()
    fooling = -(log_sigmoid(critic.head(made)) + log_sigmoid(critic.head(drawn))).mean()
    real, made, drawn = (critic.features(seen(each.detach())) for each in images)
    critic_loss = -(log_sigmoid(critic.head(real)) + log_sigmoid(-critic.head(made)) + log_sigmoid(-critic.head(drawn))).mean()
    kl = trace.kl.mean()
    torch.testing.assert_close(terms["loss"], (matching + kl).detach())
    torch.testing.assert_close(terms["vae_gan_critic"], critic_loss.detach())
    torch.testing.assert_close(terms["reconstruction"], -trace.log_likelihood.mean().detach())
    decoding = 0.7 * matching + fooling
    assert_gradients(
        objective,
        {
            "vae.encoder": matching + kl,
            "vae.decoder": decoding,
            "vae.condition": decoding + kl,
            "vae.prior": decoding + kl,
            "vae.likelihood": -trace.log_likelihood.mean(),
            "losses.vae_gan": critic_loss,
        },
    )


@pytest.mark.parametrize("patches", [True, False])
def test_players_of_an_adversarial_reconstruction(patches: bool) -> None:
    objective = objective_of("adversarial", **({"adversarial.hidden": None} if patches else {}))
    inputs = inputs_of(objective)
    total, terms, _ = objective(inputs)
    total.backward()
    vae, critic = objective.vae, objective.losses["adversarial"].critic
    trace = vae(inputs.x, inputs.noise)
    logits = critic.head(critic.features(seen(trace.reconstruction)))
    model = (-trace.log_likelihood + trace.kl - 3.0 * F.logsigmoid(logits).mean(-1)).mean()
    torch.testing.assert_close(terms["loss"], model.detach())
    real, made = (critic.head(critic.features(seen(each.detach()))) for each in (inputs.x, trace.reconstruction))
    critic_loss = -0.5 * (F.logsigmoid(real) + F.logsigmoid(-made)).mean()
    assert logits.shape == (NUM, 2 if patches else 1)
    assert_gradients(objective, {"vae": model, "losses.adversarial": critic_loss})
    assert len(objective.producers) == 1


def adversarial(**options: Any) -> tuple[Any, Inputs, Trace]:
    """Return a loss with options, inputs, and a trace of a model for images of 9×8 with a learned scale."""
    named = {f"adversarial.{name}": value for name, value in options.items()}
    objective = objective_of("adversarial", shape=(2, 9, 8), likelihood="gaussian", **named)
    inputs = inputs_of(objective)
    return objective.losses["adversarial"], inputs, objective.trace(inputs)


def test_hinge_loss() -> None:
    loss, _, trace = adversarial(objective="hinge", hidden=None)
    real, made = (loss.critic(loss.critic.features(seen(images))) for images in (trace.x, trace.reconstruction))
    torch.testing.assert_close(loss(trace), -3 * made.mean(-1))
    critic_loss = 0.5 * ((1 - real).clamp(min=0) + (1 + made).clamp(min=0)).mean(-1)
    torch.testing.assert_close(loss.criticise(trace), critic_loss)


@pytest.mark.parametrize("link", ["sigmoid", "identity"])
def test_the_adaptive_weight_balances_gradients(link: str) -> None:
    options = {"adversarial.adaptive": True, "adversarial.weight": 0.7, "likelihood.link": link}
    objective = objective_of("adversarial", shape=(2, 9, 8), likelihood="mse", **options)
    vae, loss, inputs = objective.vae, objective.losses["adversarial"], inputs_of(objective)
    mean = vae(inputs.x, inputs.noise).reconstruction.detach().requires_grad_()
    trace = Trace(inputs.x, (), vae.likelihood(mean if link == "identity" else mean.logit()), model=vae)
    (of_critic,) = torch.autograd.grad(loss(trace).sum(), mean, retain_graph=True)
    (of_reconstruction,) = torch.autograd.grad(-trace.log_likelihood.sum(), mean)
    expected = 0.7 * of_reconstruction.flatten(1).norm(dim=1)
    torch.testing.assert_close(of_critic.flatten(1).norm(dim=1), expected)
    whole, part = loss.ratio(trace), loss.ratio(Trace(inputs.x[:2], (), type(trace.likelihood)(mean[:2]), model=vae))
    torch.testing.assert_close(whole[:2], part)  # independent of the batch and the number of processes


def test_feature_matching_compares_every_layer() -> None:
    plain, _, trace = adversarial(hidden=None)
    loss, _, _ = adversarial(hidden=None, feature_matching=2.0)
    loss.load_state_dict(plain.state_dict())
    real, made, total = seen(trace.x), seen(trace.reconstruction), 0.0
    for convolution, activation in zip(loss.critic.features[::2], loss.critic.features[1::2], strict=True):
        real, made = activation(convolution(real)), activation(convolution(made))
        total = total + (real - made).abs().mean((1, 2, 3))
    torch.testing.assert_close(loss(trace) - plain(trace), 2 * total)


def test_r1_is_the_squared_gradient_of_the_critic_at_data() -> None:
    loss, inputs, trace = adversarial(r1=5.0)
    plain, _, _ = adversarial()
    plain.load_state_dict(loss.state_dict())
    x = seen(inputs.x).requires_grad_()
    (gradient,) = torch.autograd.grad(loss.critic(loss.critic.features(x)).sum(), x)
    expected = 2.5 * gradient.square().sum((1, 2, 3))
    torch.testing.assert_close(loss.criticise(trace) - plain.criticise(trace), expected)
    weight = loss.critic.features[0].weight
    (slope,) = torch.autograd.grad(loss.squared_gradient(trace).sum(), weight)
    direction = torch.randn_like(weight)
    with torch.no_grad():
        values = []
        for step in (1e-5, -1e-5):
            weight += step * direction
            values.append(loss.squared_gradient(trace).sum().item())
            weight -= step * direction
    assert (slope * direction).sum().item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)


@pytest.mark.parametrize("epoch", [4.9, 5.0])
def test_before_its_start_a_critic_neither_acts_nor_learns(epoch: float) -> None:
    objective = objective_of("adversarial", **{"adversarial.weight": "step(0, 3, 5)"})
    inputs = inputs_of(objective)._replace(epoch=torch.tensor(epoch, dtype=torch.float64))
    total, terms, _ = objective(inputs)
    total.backward()
    started = epoch >= 5
    assert (terms["adversarial"] > 0) == started
    assert any(p.grad.any() for p in objective.losses.parameters()) == started


def test_several_samples_are_averaged() -> None:
    objective = objective_of("adversarial", loss=["iwae", "adversarial"], num_samples=4)
    inputs = inputs_of(objective)
    noise = torch.randn(4, NUM, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    inputs = inputs._replace(noise=noise)
    loss, trace = objective.losses["adversarial"], objective.trace(inputs)
    values = loss(trace), loss.criticise(trace)
    for k, expected in enumerate(trace.reconstruction):
        one = objective.vae(inputs.x, inputs.noise[k])
        torch.testing.assert_close(one.reconstruction, expected)
        values = tuple(value - other / 4 for value, other in zip(values, (loss(one), loss.criticise(one)), strict=True))
    for value in values:
        torch.testing.assert_close(value, torch.zeros_like(value), atol=1e-12, rtol=0)


@pytest.mark.parametrize("loss", ["vae_gan", "adversarial"])
def test_a_critic_ignores_missing_values(loss: str) -> None:
    """The value and the gradients do not depend on the decoded values at missing positions."""
    objective = objective_of(loss, shape=(7,), missing="channel")
    inputs = inputs_of(objective)
    x = inputs.x.clone()
    x[:, 2] = torch.nan
    inputs = inputs._replace(x=x, target=x)
    gradients = []
    for shift in (0.0, 1.0):
        with torch.no_grad():
            objective.vae.decoder.net[-2].bias[2] += shift
        total, *_ = objective(inputs)
        objective.zero_grad()
        total.backward()
        assert total.isfinite()
        gradients.append([p.grad.clone() for p in objective.losses[loss].parameters()])
        assert objective.vae.decoder.net[-2].bias.grad[2] == 0
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_idle_aims_are_accepted_but_losses_that_train_nothing_are_not() -> None:
    half = objective_of("vae_gan", frozen=["decoder"])
    check_players(half, inputs_of(half))
    frozen = objective_of("vae_gan", frozen=["encoder", "posterior"])
    with pytest.raises(UsageError, match=r"nothing to train"):
        check_players(frozen, inputs_of(frozen))


@pytest.mark.parametrize("loss", ["aae", "vae_gan"])
def test_a_trace_without_draws_is_refused(loss: str) -> None:
    objective = objective_of(loss)
    trace = objective.vae(torch.rand(2, *SHAPE, dtype=torch.float64))
    with pytest.raises(UsageError, match=f"{loss}.*the trace has none"):
        objective.losses[loss].criticise(trace)


def test_a_trained_critic_estimates_the_divergence_of_codes_from_the_prior() -> None:
    """KL(N(m, s²) ‖ N(0, 1)) in each of two dimensions."""
    mean, std = 0.8, 0.6
    absent: Any = None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        loss = AAE(2, hidden=(64, 64))
        optimizer = torch.optim.Adam(loss.critic.parameters(), lr=2e-3)

        def trace_of(num: int) -> Trace:
            z = mean + std * torch.randn(num, 2)
            site = Site(z, DiagonalGaussian(z, torch.zeros_like(z)), StandardNormal(torch.zeros(2)))
            return Trace(absent, (site,), absent, draws={"aae": torch.randn(num, 2)})

        for _ in range(600):
            optimizer.zero_grad()
            loss.criticise(trace_of(256)).mean().backward()
            optimizer.step()
        trace = trace_of(20_000)
        loss(trace)
    expected = 2 * 0.5 * (mean**2 + std**2 - 1 - 2 * math.log(std))
    assert trace.metrics["aggregate_kl"].mean().item() == pytest.approx(expected, abs=0.1)


class Interrupt(Silent):
    def epoch(self, record: Any) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("loss", ["aae", "vae_gan"])
def test_a_run_resumes_to_the_same_bits_and_stacks(loss: str, tmp_path: Any) -> None:
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (120, 5, 4), dtype=np.uint8))
    training = {"device": "cpu", "threads": 1, "batch_size": 16, "epochs": 2, "pictures": "none", "compile": "off"}
    options = {"dataset": "array", "dataset.path": str(tmp_path / "images.npy"), **options_of(loss), **training}
    whole = vaekit.train(**options, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        vaekit.train(**options, out=tmp_path / "cut", reporter=Interrupt())
    resumed = vaekit.resume(tmp_path / "cut")
    assert resumed.folder.model.read_bytes() == whole.folder.model.read_bytes()
    swept = {"aae": "aae.weight", "vae_gan": "vae_gan.gamma"}[loss]
    runs = vaekit.sweep(over={swept: (options.pop(swept), 20.0)}, **options, stack="on", out=tmp_path / "sweep")
    stacked, alone = runs[0].evaluation(), whole.evaluation()
    assert stacked is not None
    assert alone is not None
    for name in ("loss", f"{loss}_critic", f"{loss}_critic_accuracy"):
        assert stacked[name] == pytest.approx(alone[name], rel=1e-3, abs=1e-3), name
