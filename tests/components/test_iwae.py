"""The importance-weighted bound, and losses that request several samples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import vaekit
from vaekit import roles
from vaekit.components.losses.iwae import IWAE
from vaekit.data.batches import Batch
from vaekit.data.facts import Facts
from vaekit.errors import UsageError
from vaekit.interfaces import Loss
from vaekit.model.assembly import build_objective, build_vae, example_inputs
from vaekit.model.objective import Inputs, Objective
from vaekit.specs.options import build_spec

SHAPE = (1, 4, 3)
SMALL = {"encoder.hidden": (8,), "decoder.hidden": (8,), "latent_dim": 2}


def objective_of(**options: Any) -> Objective:
    model = build_spec({}, {**SMALL, **options}).model
    return build_objective(model, build_vae(model, Facts(data_shape=SHAPE), seed=0).double(), num_data=100, seed=0).double()


def inputs_of(objective: Objective, num: int = 5) -> Inputs:
    x = torch.rand(num, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64).round()
    noise = objective.samples_first(objective.draw_noise(num, torch.Generator().manual_seed(1), like=x))
    return Inputs(x, x, noise, torch.zeros((), dtype=torch.float64))


@pytest.mark.parametrize("num", [1, 5, 50])
def test_the_bound_is_the_definition_and_so_is_its_gradient(num: int) -> None:
    objective = objective_of(loss="iwae", num_samples=num)
    inputs, vae = inputs_of(objective), objective.vae
    assert inputs.noise.shape == (num, 5, 2)
    total, terms, _ = objective(inputs)
    gradients = torch.autograd.grad(total, list(vae.parameters()), allow_unused=True)
    weights = []
    mu, logvar = vae.encode(inputs.x)
    for noise in inputs.noise:
        z = mu + torch.exp(0.5 * logvar) * noise
        log_p = -0.5 * (math.log(2 * math.pi) + z**2).sum(-1)
        log_q = -0.5 * (math.log(2 * math.pi) + logvar + noise**2).sum(-1)
        image = torch.sigmoid(vae.decoder(z))
        log_x = (inputs.x * image.log() + (1 - inputs.x) * (1 - image).log()).sum((1, 2, 3))
        weights.append((log_x + log_p - log_q).exp())
    expected = -torch.stack(weights).mean(0).log().mean()
    torch.testing.assert_close(total, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(terms["iwae"], expected.detach(), rtol=1e-10, atol=1e-12)
    for given, wanted in zip(gradients, torch.autograd.grad(expected, list(vae.parameters()), allow_unused=True), strict=True):
        torch.testing.assert_close(given, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("num", [1, 7])
def test_the_doubly_reparameterised_gradient_is_the_definition(num: int) -> None:
    """Tucker et al. (2019): the sum over samples of w^2 (d log w / dz) (dz / dphi), with normalised weights w."""
    objective = objective_of(loss="iwae", num_samples=num, dreg=True)
    inputs, vae = inputs_of(objective), objective.vae
    assert [player.aims for player in objective.players] == [("dreg",), ("iwae",)]
    total, terms, _ = objective(inputs)
    torch.testing.assert_close(terms["loss"], terms["iwae"])
    total.backward()
    mu, logvar = vae.encode(inputs.x)
    z = mu + torch.exp(0.5 * logvar) * inputs.noise
    free = z.detach().requires_grad_()
    log_q = -0.5 * (math.log(2 * math.pi) + logvar + (free - mu) ** 2 * torch.exp(-logvar)).sum(-1)
    log_p = -0.5 * (math.log(2 * math.pi) + free**2).sum(-1)
    image = torch.sigmoid(vae.decoder(free.flatten(0, 1))).unflatten(0, free.shape[:2])
    log_x = (inputs.x * image.log() + (1 - inputs.x) * (1 - image).log()).sum((2, 3, 4))
    weight = log_x + log_p - log_q
    (by_z,) = torch.autograd.grad(weight.sum(), free, retain_graph=True)
    shares = torch.softmax(weight, 0).detach()
    surrogate = -(shares.square()[..., None] * by_z * z).sum((0, 2)).mean()
    bound = -(torch.logsumexp(log_x + log_p - log_q.detach(), 0) - math.log(num)).mean()
    for part, value in ((vae.encoder, surrogate), (vae.decoder, bound)):
        wanted = torch.autograd.grad(value, list(part.parameters()), retain_graph=True)
        for parameter, gradient in zip(part.parameters(), wanted, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12)


def test_more_samples_tighten_the_bound_and_the_elbo_is_still_reported() -> None:
    values = {}
    for num in (1, 5, 200):
        objective = objective_of(loss="iwae", num_samples=num)
        totals = []
        for seed in range(40):
            x = inputs_of(objective).x
            noise = objective.samples_first(objective.draw_noise(5, torch.Generator().manual_seed(seed), like=x))
            total, terms, _ = objective(Inputs(x, x, noise, torch.zeros((), dtype=torch.float64)))
            totals.append((total.item(), (terms["reconstruction"] + terms["kl"]).item()))
        values[num] = np.mean(totals, 0)
    assert values[1][0] > values[5][0] > values[200][0]
    assert abs(values[1][1] - values[200][1]) < 0.2


def test_the_noise_of_an_image_does_not_depend_on_the_shard() -> None:
    """Two processes see the same noise as one: it is drawn for the whole batch, images first, and split by image."""
    objective = objective_of(loss="iwae", num_samples=3)
    x = torch.rand(6, *SHAPE)

    def share(offset: int, size: int) -> torch.Tensor:
        part = x[offset : offset + size]
        batch = Batch(part, part, None, torch.arange(size), whole=6, offset=offset)
        drawn = batch.share(lambda num: objective.draw_noise(num, torch.Generator().manual_seed(0), like=x))
        return objective.samples_first(drawn)

    assert torch.equal(share(0, 6), torch.cat([share(0, 3), share(3, 3)], 1))


def test_losses_that_request_different_numbers_of_samples_are_refused() -> None:
    class Two(Loss):
        """Requests two samples."""

        samples = (2,)

        def forward(self, trace: Any) -> torch.Tensor:
            return trace.z.square().sum((0, -1))

    with roles.losses.temporarily(two=Two):
        with pytest.raises(UsageError, match=r"different numbers of samples(.*\n)*.*iwae: 5(.*\n)*.*two: 2"):
            objective_of(loss=["iwae", "two"])
        objective = objective_of(loss=["kl", "two"])
    assert objective.samples == (2,)
    assert objective.float()(example_inputs(objective))[0].isfinite()


def test_a_run_with_several_samples_trains_resumes_evaluates_and_exports(tmp_path: Any) -> None:
    images = np.random.default_rng(0).integers(0, 256, (120, 4, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    given = {"dataset": "array", "dataset.path": str(tmp_path / "images.npy"), **SMALL, "device": "cpu", "threads": 1}
    options = {
        **given,
        "likelihood": "bce",
        "binarize": "dynamic",
        "loss": "iwae",
        "num_samples": 4,
        "batch_size": 16,
        "epochs": 2,
    }
    run = vaekit.train(**options, out=tmp_path / "run")
    evaluation = run.evaluation()
    assert evaluation is not None
    assert evaluation["iwae"] < -evaluation["elbo"] + 0.5
    assert len(evaluation["latent_mean"]) == 2
    assert run.evaluate(samples=20)["log_likelihood"] > evaluation["elbo"]
    assert run.export("onnx").parity.difference < 1e-5
    runs = vaekit.sweep(over={"seed": (0, 1)}, **options, stack="on", out=tmp_path / "sweep")
    alone = vaekit.train(**options, seed=1, out=tmp_path / "alone")
    stacked, single = (each.evaluation() for each in (runs[1], alone))
    assert stacked is not None
    assert single is not None
    assert stacked["iwae"] == pytest.approx(single["iwae"], rel=1e-4)
    assert IWAE(num_samples=3).samples == (3,)


BOUNDS: dict[str, dict[str, Any]] = {
    "iwae": {"num_samples": 6},
    "miwae": {"num_samples": 3, "num_bounds": 2},
    "ciwae": {"num_samples": 6, "elbo_weight": 0.25},
    "piwae": {"num_samples": 3, "num_bounds": 2},
}


def with_samples(objective: Objective, noise: torch.Tensor) -> Inputs:
    """Return inputs with the same noise for six samples, arranged in the objective's sample dimensions."""
    return inputs_of(objective)._replace(noise=noise.reshape(*objective.samples, *noise.shape[1:]))


def value_of(loss: str, noise: torch.Tensor, **options: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the loss and the gradients of the model's parameters, from the same weights, images and noise."""
    objective = objective_of(loss=loss, **options)
    total, terms, _ = objective(with_samples(objective, noise))
    total.backward()
    return terms["loss"].item(), {name: each.grad for name, each in objective.vae.named_parameters()}


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randn(6, 5, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_bounds_of_the_same_samples_are_ordered(noise: torch.Tensor) -> None:
    """By Jensen's inequality: the ELBO, the mean of bounds from fewer samples, the bound from all samples."""
    values = {name: value_of(name, noise, **options)[0] for name, options in BOUNDS.items()}
    elbo = value_of("ciwae", noise, num_samples=6, elbo_weight=1)[0]
    assert elbo > values["ciwae"] > values["iwae"]
    assert elbo > values["miwae"] > values["iwae"]
    assert values["piwae"] == pytest.approx(values["iwae"], rel=1e-12)
    assert values["ciwae"] == pytest.approx(0.25 * elbo + 0.75 * values["iwae"], rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "options", "like"),
    [
        ("miwae", {"num_samples": 6, "num_bounds": 1}, {"loss": "iwae", "num_samples": 6}),
        ("ciwae", {"num_samples": 6, "elbo_weight": 0}, {"loss": "iwae", "num_samples": 6}),
        ("miwae", {"num_samples": 1, "num_bounds": 6}, {"loss": "ciwae", "num_samples": 6, "elbo_weight": 1}),
        ("piwae", {"num_samples": 6, "num_bounds": 1}, {"loss": "iwae", "num_samples": 6}),
    ],
)
def test_limits_of_bounds_and_of_their_gradients(noise: torch.Tensor, loss: str, options: Any, like: Any) -> None:
    (value, gradients), (expected, others) = value_of(loss, noise, **options), value_of(noise=noise, **like)
    assert value == pytest.approx(expected, rel=1e-12)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, others[name], rtol=1e-9, atol=1e-12)


def test_one_sample_and_one_bound_is_the_sampled_elbo() -> None:
    one = torch.randn(1, 5, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    objective = objective_of(loss="miwae", num_samples=1, num_bounds=1)
    inputs = with_samples(objective, one)
    site = (trace := objective.vae(inputs.x, one[0])).sites[0]
    expected = (-trace.log_likelihood - site.log_p + site.log_q).mean()
    torch.testing.assert_close(objective(inputs).total, expected, rtol=1e-12, atol=0)


def test_the_decoder_follows_the_bound_of_all_samples_and_the_encoder_the_mean_of_bounds(noise: torch.Tensor) -> None:
    _, gradients = value_of("piwae", noise, **BOUNDS["piwae"])
    of_all, of_mean = (value_of(name, noise, **BOUNDS[name])[1] for name in ("iwae", "miwae"))
    for name, gradient in gradients.items():
        follows, other = (of_mean, of_all) if name.startswith("encoder") else (of_all, of_mean)
        torch.testing.assert_close(gradient, follows[name], rtol=1e-9, atol=1e-12)
        assert not torch.allclose(gradient, other[name], rtol=1e-3, atol=0), name
