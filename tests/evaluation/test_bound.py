"""The numbers of an evaluation, compared with independent calculations."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import vaekit
from vaekit.cli import main
from vaekit.compute.distributed import ProcessGroup
from vaekit.data import Batches, TensorImages
from vaekit.distributions import DiscretizedLogisticPixels, GaussianPixels, LaplacePixels
from vaekit.errors import DataError, UsageError
from vaekit.evaluation.bound import evaluate
from vaekit.evaluation.evaluator import Evaluator
from vaekit.evaluation.importance import log_likelihood
from vaekit.evaluation.metrics import metric_of, metrics_in
from vaekit.model.assembly import assemble
from vaekit.specs.options import build_spec
from vaekit.streams import Streams
from vaekit.training.hardware import fit_to_machine

SMALL = {"encoder.hidden": (16,), "decoder.hidden": (16,), "latent_dim": 3, "device": "cpu", "threads": 1, "pictures": "none"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of 300 grey images determined by two numbers."""
    file = tmp_path_factory.mktemp("bound") / "images.npy"
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 300, 1, 1))
    waves = np.sin(3 * a + 2 * b * np.arange(5)[None, None] + np.arange(6)[None, :, None])
    pixels = 127 + 100 * waves + rng.normal(0, 6, (300, 6, 5))
    np.save(file, pixels.clip(0, 255).astype(np.uint8))
    return str(file)


def evaluator(images: str, **options: Any) -> Evaluator:
    given = {"dataset": "array", "dataset.path": images, **SMALL, **options}
    spec = fit_to_machine(build_spec({}, given))
    splits = vaekit.datasets.build(spec.data.dataset).load()
    return Evaluator(spec, assemble(spec, splits), splits, ProcessGroup(device="cpu"))


# Bits per dimension


@pytest.mark.parametrize("kind", [GaussianPixels, LaplacePixels])
@pytest.mark.parametrize("scale", [5e-4, 1 / 256, 0.05, 0.3, 3.0])
@pytest.mark.parametrize("mean", [-0.5, 0.0, 0.4999, 0.7, 1.0, 1.5])
def test_the_probabilities_of_the_grey_levels_sum_to_one_and_are_differences_of_the_distribution(
    kind: Any, scale: float, mean: float
) -> None:
    levels = torch.arange(256, dtype=torch.float64).view(256, 1, 1, 1) / 255
    density = kind(torch.full((1, 1, 1), mean, dtype=torch.float64), torch.tensor([math.log(scale)], dtype=torch.float64))
    mass = density.log_mass(levels, 1 / 255)
    assert torch.logsumexp(mass, 0).item() == pytest.approx(0, abs=1e-9)
    law = (stats.norm if kind is GaussianPixels else stats.laplace)(mean, scale)
    edges = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 255, [np.inf]])
    expected = np.maximum(np.diff(law.cdf(edges)), -np.diff(law.sf(edges)))
    held = expected > 1e-12
    assert np.abs(mass.numpy()[held] - np.log(expected[held])).max() < 1e-3
    assert bool((mass <= 1e-12).all())


@pytest.mark.parametrize(("likelihood", "law"), [("gaussian", stats.norm), ("laplace", stats.laplace)])
@pytest.mark.parametrize("scale", [0.1, 0.3])
def test_bits_per_dim_match_a_manual_calculation(images: str, likelihood: str, law: Any, scale: float) -> None:
    name = "sigma" if likelihood == "gaussian" else "scale"
    options = {"likelihood": likelihood, "likelihood.learned": False, f"likelihood.{name}": scale, "batch_size": 30}
    given = evaluator(images, **options)
    result, vae = given.evaluate("test", 0), given.objective.vae.eval()
    batch = next(given.batches("test").epoch(0))
    noise = vae.posterior.draw_noise(30, Streams(0).generator("evaluation/test", 0), like=batch.x)
    with torch.no_grad():
        trace = vae(batch.x, noise)
    x, mean = batch.x.double().numpy(), trace.reconstruction.double().numpy()
    lower, upper = np.where(x <= 0, -np.inf, x - 0.5 / 255), np.where(x >= 1, np.inf, x + 0.5 / 255)
    mass = law.cdf(upper, mean, scale) - law.cdf(lower, mean, scale)
    mass = np.where(lower > mean, law.sf(lower, mean, scale) - law.sf(upper, mean, scale), mass)
    bits = (trace.kl.double().numpy() - np.log(mass).sum((1, 2, 3))) / (30 * math.log(2))
    assert result["bits_per_dim"] == pytest.approx(bits.mean(), rel=1e-5)


@pytest.mark.parametrize("binarize", ["threshold", "static", "dynamic"])
def test_binary_pixels_have_no_bits_per_dim(images: str, binarize: str) -> None:
    assert "bits_per_dim" not in evaluator(images, likelihood="gaussian", binarize=binarize).evaluate("test", 0)
    assert "bits_per_dim" in evaluator(images, likelihood="gaussian").evaluate("test", 0)


def test_the_mass_of_a_discretised_logistic_is_a_difference_of_its_distribution_and_trains_everywhere() -> None:
    levels = torch.linspace(0, 1, 256, dtype=torch.float64).view(256, 1, 1, 1)
    edges = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 255, [np.inf]])
    for location in (-1.0, 0.0, 0.3, 1.0):
        for scale in (1 / 256, 0.02, 0.5):
            at = torch.full((1, 1, 1), location, dtype=torch.float64, requires_grad=True)
            log_scale = torch.tensor([math.log(scale)], dtype=torch.float64, requires_grad=True)
            pixels = DiscretizedLogisticPixels(at, log_scale)
            mass = pixels.log_prob(levels)
            law = stats.logistic(location, scale)
            expected = np.maximum(np.diff(law.cdf(edges)), -np.diff(law.sf(edges)))
            assert torch.logsumexp(mass, 0).item() == pytest.approx(0, abs=1e-9)
            np.testing.assert_allclose(mass.exp().detach(), expected, rtol=1e-6, atol=1e-12)
            assert pixels.mean.item() == pytest.approx((mass.exp() @ levels.flatten()).item(), abs=1e-4)
            assert all(grad.isfinite().all() for grad in torch.autograd.grad(mass.sum(), (at, log_scale)))


def test_a_mass_of_grey_levels_gives_bits_per_dim_directly(images: str, tmp_path: Path) -> None:
    given = evaluator(images, likelihood="discretized_logistic", binarize="none", batch_size=30)
    result = given.evaluate("test", 0)
    assert result["elbo_is"] == "lower bound of log p(x), nats"
    assert result["bits_per_dim"] == pytest.approx(-result["elbo"] / (30 * math.log(2)), rel=1e-6)
    np.save(tmp_path / "floats.npy", np.random.default_rng(0).random((300, 6, 5)))
    options = {"dataset": "array", "dataset.path": str(tmp_path / "floats.npy"), **SMALL}
    with pytest.raises(DataError, match=r"scores 8-bit grey levels(.*\n)*.*--dataset\.range"):
        vaekit.train(**options, likelihood="discretized_logistic", epochs=1, out=tmp_path / "run")


# The bound and its error


def test_the_bound_has_the_standard_error_of_its_mean(images: str) -> None:
    given = evaluator(images, likelihood="gaussian", batch_size=7)
    result, vae, bounds = given.evaluate("test", 0), given.objective.vae.eval(), []
    for batch in given.batches("test").epoch(0):
        noise = vae.posterior.draw_noise(len(batch.x), Streams(0).generator("evaluation/test", batch.step), like=batch.x)
        with torch.no_grad():
            trace = vae(batch.x, noise)
        bounds += (trace.log_likelihood - trace.kl).tolist()
    assert result["elbo"] == pytest.approx(np.mean(bounds), rel=1e-6)
    assert result["elbo_standard_error"] == pytest.approx(np.std(bounds, ddof=1) / math.sqrt(30), rel=1e-4)
    assert [metric.key for metric in metrics_in(result)][:2] == ["elbo", "elbo_standard_error"]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluation_binarises_independently_of_seed_batch_and_training(images: str, split: str) -> None:
    source = TensorImages(torch.rand(40, 1, 6, 5, generator=torch.Generator().manual_seed(0)))
    seen = []
    for seed, batch_size, binarize in ((0, 8, "dynamic"), (7, 8, "dynamic"), (0, 40, "dynamic"), (0, 8, "static")):
        batches = Batches(source, batch_size=batch_size, streams=Streams(seed), binarize=binarize, train=False, split=split)
        seen.append(torch.cat([batch.x for batch in batches.epoch(0)]))
    assert all(torch.equal(seen[0], other) for other in seen[1:])
    train = [Batches(source, batch_size=40, streams=Streams(seed), binarize="dynamic") for seed in (0, 1)]
    assert not torch.equal(*(next(batches.epoch(0)).x.sort(0).values for batches in train))


# Statistics of a batch


def test_statistics_of_a_batch_do_not_depend_on_the_batch_of_training(images: str) -> None:
    """The total correlation of 16 images is far from that of 240."""
    results = {}
    for batch_size in (16, 120):
        given = evaluator(images, loss="tc", likelihood="gaussian", batch_size=batch_size)
        with torch.no_grad():
            for weight in given.objective.vae.encoder.parameters():
                weight.mul_(3)  # codes that depend on the images
        results[batch_size] = given.evaluate("train", 0)
    assert results[16]["statistics_batch"] == results[120]["statistics_batch"] == 240
    for name in ("total_correlation", "loss", "elbo", "tc"):
        assert results[16][name] == pytest.approx(results[120][name], rel=1e-5)
    few = evaluate(
        given.objective,
        Batches(given.splits.train, batch_size=16, streams=Streams(0), train=False).epoch(0),
        Streams(0),
        split="train",
    )
    assert abs(few["total_correlation"] - results[16]["total_correlation"]) > 0.02


def test_batches_of_statistics_are_equal_in_size(images: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaekit.evaluation.evaluator.STATISTIC_IMAGES", 100)
    given = evaluator(images, loss="tc", likelihood="gaussian", batch_size=16)
    assert [len(batch.x) for batch in given.batches("train").epoch(0)] == [80, 80, 80]
    assert evaluator(images, likelihood="gaussian", batch_size=16).batch_size("train") == 16


@pytest.mark.parametrize(("options", "expected"), [({}, 2**20 // 30), ({"loss": "iwae", "num_samples": 50}, 2**20 // 1500)])
def test_a_gpu_evaluates_more_small_images_at_once(images: str, options: dict[str, Any], expected: int) -> None:
    given = evaluator(images, likelihood="bce", binarize="dynamic", batch_size=16, **options)
    assert (given.at_once, given.batch_size("train")) == (16, 16)
    given.processes = SimpleNamespace(device=torch.device("cuda"))  # type: ignore[assignment]
    assert (given.at_once, given.batch_size("train")) == (expected, expected)


def test_chunked_networks_give_the_same_results(images: str) -> None:
    given = evaluator(
        images, likelihood="gaussian", encoder="cnn", batch_size=30, **{"encoder.channels": (4,), "decoder.channels": (4,)}
    )
    whole, chunks = (
        evaluate(given.objective, given.batches("test").epoch(0), Streams(0), split="test", chunk=chunk) for chunk in (None, 7)
    )
    for name, value in whole.items():
        assert chunks[name] == pytest.approx(value, rel=1e-5, abs=1e-4)


# Names


@pytest.mark.parametrize(
    ("elbo_is", "names"),
    [
        ("lower bound of log p(x), nats", ["ELBO", "reconstruction", "log p(x)"]),
        ("lower bound of the log density of pixels in [0, 1], nats", ["ELBO", "reconstruction", "log p(x)"]),
        ("lower bound of log p(x) up to a constant, nats", ["ELBO + constant", "reconstruction error", "log p(x) + constant"]),
        ("cross-entropy on grey values, not a log-likelihood", ["-(CE+KL)", "cross-entropy", "log p(x)"]),
    ],
)
def test_metrics_have_accurate_names(elbo_is: str, names: list[str]) -> None:
    assert [metric_of(key).read_as(elbo_is).label for key in ("elbo", "reconstruction", "log_likelihood")] == names


def test_a_cross_entropy_has_no_log_likelihood(images: str) -> None:
    with pytest.raises(UsageError, match=r"not defined for a cross-entropy(.*\n)*.*--binarize dynamic"):
        evaluator(images, likelihood="bce", binarize="none").log_likelihood("test", samples=3)


def test_metrics_that_cannot_be_ranked_are_reported(images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"dataset": "array", "dataset.path": images, **SMALL, "epochs": 1, "batch_size": 60}
    runs = {}
    for name, options in {
        "a": {"likelihood": "bce", "binarize": "static"},
        "b": {"likelihood": "bce", "binarize": "dynamic"},
    }.items():
        runs[name] = vaekit.train(**given, **options, out=tmp_path / name)
    assert main(["compare", str(runs["a"].path), str(runs["a"].path / ".." / "b"), "--out", str(tmp_path / "c.png")]) == 0
    shown = capsys.readouterr().out
    assert "cannot be ranked, because the models differ in: binarised" in shown
    assert "±" in shown
    assert json.loads((tmp_path / "a" / "evaluation.json").read_text("utf-8"))["binarize"] == "static"
    again = vaekit.train(**given, likelihood="bce", binarize="static", seed=1, out=tmp_path / "again")
    assert main(["compare", str(runs["a"].path), str(again.path), "--out", str(tmp_path / "c.png")]) == 0
    assert "cannot be ranked" not in capsys.readouterr().out


def test_the_estimate_of_log_p_needs_no_special_batches(images: str) -> None:
    given = evaluator(images, loss="tc", likelihood="gaussian", batch_size=30)
    estimate = given.log_likelihood("test", samples=5)
    alone = log_likelihood(given.objective.vae, given.batches("test").epoch(0), Streams(0), samples=5)
    assert estimate == alone
