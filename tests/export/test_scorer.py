"""Scorers as ONNX: score, map, threshold and normalised score, equal to those of Python."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import vaekit
from vaekit import roles
from vaekit.components.exporters.onnx import Onnx
from vaekit.components.exporters.torch import Torch
from vaekit.data.facts import Facts
from vaekit.errors import ExportError
from vaekit.evaluation.detection import Threshold
from vaekit.evaluation.scores import error_map, numbers_of, score_of, trace_of_means
from vaekit.export.graph import FORMULAS
from vaekit.export.trained import Trained
from vaekit.export.verification import verify
from vaekit.model.assembly import build_vae
from vaekit.specs.options import build_spec

Make = Callable[..., Trained]
Array = np.ndarray[Any, Any]


def with_threshold(trained: Trained, score: str = "elbo", **changes: Any) -> Trained:
    """A model with a threshold between the scores of random images."""
    x = images(trained)
    scores = np.sort(reference(trained, score, x)[0].astype(float))
    about = {"source": "random images", "deterministic": True, "score": score} | changes
    middle = float(scores[len(scores) // 2 - 1 : len(scores) // 2 + 1].mean())
    return replace(
        trained, threshold=Threshold(value=middle, low=scores[0], high=scores[-1], quantile=0.5, num_images=20, **about)
    )


def images(trained: Trained, num: int = 20) -> torch.Tensor:
    levels = torch.randint(256, (num, *trained.vae.data_shape), generator=torch.Generator().manual_seed(3))
    return trained.vae.from_unit(levels / 255)


@torch.no_grad()
def reference(trained: Trained, score: str, x: torch.Tensor, y: torch.Tensor | None = None) -> tuple[Array, Array]:
    """Scores and maps by the parts of the model."""
    trace = trace_of_means(trained.vae, x, y)
    error = error_map(x, trained.vae.reconstruct(x, y))
    numbers = numbers_of(trace) | {"squared_error": error.flatten(1).sum(1)}
    return score_of(score, numbers).numpy(), error.numpy()


def run(path: Path, x: torch.Tensor, **more: Array) -> dict[str, Array]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": x.numpy(), **more}), strict=True))


def check(trained: Trained, path: Path, score: str, x: torch.Tensor, y: torch.Tensor | None = None) -> dict[str, Array]:
    found = run(path, x, **({} if y is None else {"label": y.numpy()}))
    expected, error = reference(trained, score, x, y)
    assert list(found) == ["score", "map", "is_anomaly", "normalised_score"]
    np.testing.assert_allclose(found["score"], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(found["map"], error, atol=1e-5)
    threshold = trained.threshold
    assert threshold is not None
    clear = np.abs(expected - threshold.value) > 1e-4 * np.abs(expected)
    assert (found["is_anomaly"] == (expected > threshold.value))[clear].all()
    np.testing.assert_allclose(found["normalised_score"], threshold.normalised(expected), atol=1e-4)
    return found


# Equal to Python


@pytest.fixture(scope="module")
def scored(labelled_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[vaekit.Run, Path]:
    """A run with a threshold, and its scorer."""
    opened = vaekit.Run(shutil.copytree(labelled_run, tmp_path_factory.mktemp("scorer") / "run"))
    opened.score(quantile=0.7, deterministic=True)
    return opened, opened.export(part="scorer").path


def test_the_file_equals_the_deterministic_scores_of_the_run(scored: tuple[vaekit.Run, Path]) -> None:
    opened, path = scored
    assert path == opened.path / "scorer.onnx"
    scores = opened.score(deterministic=True)
    x = opened.splits.test.gather(torch.arange(24)) / 255
    found = run(path, x)
    np.testing.assert_allclose(found["score"], scores.score, rtol=1e-5)
    assert (found["is_anomaly"] == scores["above_threshold"]).all()
    assert 0 < found["is_anomaly"].sum() < 24
    np.testing.assert_allclose(found["map"].sum((1, 2)), scores["squared_error"], rtol=1e-5)
    assert scores.threshold is not None
    np.testing.assert_allclose(found["normalised_score"], scores.threshold.normalised(scores.score), atol=1e-5)
    assert np.abs(scores.score - opened.score().score).max() > 0.1  # those of draws are others


def test_metadata_hold_the_threshold_and_the_formula_of_normalised_scores(scored: tuple[vaekit.Run, Path]) -> None:
    opened, path = scored
    about = json.loads(path.with_suffix(".json").read_text())
    stored = json.loads((opened.path / "threshold.json").read_text())
    assert about["part"] == "scorer"
    for key in ("score", "value", "low", "high", "quantile", "source", "num_images", "deterministic"):
        assert about["threshold"][key] == stored[key]
    assert about["threshold"]["normalised_score"].startswith("(score - value) / (high - low) + 1/2")
    assert [(port["name"], port["type"], port["shape"]) for port in about["outputs"]] == [
        ("score", "float32", ["batch"]),
        ("map", "float32", ["batch", 8, 6]),
        ("is_anomaly", "bool", ["batch"]),
        ("normalised_score", "float32", ["batch"]),
    ]
    assert str(opened.path) not in path.with_suffix(".json").read_text()


def test_the_file_is_verified_alone_and_against_the_run_whose_threshold_may_change(scored: tuple[vaekit.Run, Path]) -> None:
    opened, path = scored
    trained = opened.trained()
    assert verify(path).difference <= 1e-5
    assert verify(path, trained).difference <= 1e-5
    assert trained.threshold is not None
    with pytest.raises(ExportError, match="threshold differs"):
        verify(path, replace(trained, threshold=replace(trained.threshold, value=trained.threshold.value + 1)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("score", "likelihood"),
    [("elbo", "bce"), ("reconstruction", "gaussian"), ("kl", "gaussian"), ("squared_error", "laplace")],
)
def test_every_score_of_a_scorer(make: Make, score: str, likelihood: str, tmp_path: Path) -> None:
    trained = with_threshold(make(likelihood=likelihood), score)
    path = Onnx().export(trained, "scorer", tmp_path / "scorer.onnx").path
    found = check(trained, path, score, images(trained))
    assert 0 < found["is_anomaly"].sum() < 20


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", roles.likelihoods.kinds())
def test_every_likelihood(make: Make, likelihood: str, tmp_path: Path) -> None:
    counts = roles.likelihoods.get(likelihood).scores == "counts"
    trained = with_threshold(make(likelihood=likelihood))
    path = Onnx().export(trained, "scorer", tmp_path / "scorer.onnx").path
    check(trained, path, "elbo", images(trained).round() if counts else images(trained))


@pytest.mark.slow
@pytest.mark.parametrize("posterior", [kind for kind in roles.posteriors.kinds() if roles.posteriors.get(kind).space != "codes"])
def test_every_posterior(make: Make, posterior: str, tmp_path: Path) -> None:
    score = "elbo" if vaekit.Capability.LOG_PROB in roles.posteriors.get(posterior).provides else "squared_error"
    trained = with_threshold(make(posterior=posterior), score)
    check(trained, Onnx().export(trained, "scorer", tmp_path / "scorer.onnx").path, score, images(trained))


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["mixture", "vamp", "maf"])
def test_priors_are_part_of_the_scorer(make: Make, prior: str, tmp_path: Path) -> None:
    trained = with_threshold(make(prior=prior))
    check(trained, Onnx().export(trained, "scorer", tmp_path / "scorer.onnx").path, "elbo", images(trained))


def test_conditional_scorers_take_labels(tmp_path: Path) -> None:
    spec = build_spec({}, {"latent_dim": 2, "condition": "label", "encoder.hidden": (8,), "decoder.hidden": (8,)})
    names = ("a", "b", "c")
    vae = build_vae(spec.model, Facts(data_shape=(1, 5, 4), class_names=names), seed=0).eval().requires_grad_(False)
    plain = Trained(vae, spec, {}, tuple(vaekit.export.trained.Latent(0, 1, None) for _ in range(2)), names)
    threshold = Threshold("elbo", value=14.0, low=10.0, high=20.0, quantile=0.5, source="here", num_images=9, deterministic=True)
    trained = replace(plain, threshold=threshold)
    path = Onnx().export(trained, "scorer", tmp_path / "scorer.onnx").path
    x = images(trained)
    found = [check(trained, path, "elbo", x, torch.full((20,), label)) for label in (0, 2)]
    assert np.abs(found[0]["score"] - found[1]["score"]).max() > 1e-3
    assert verify(path).difference <= 1e-5


@pytest.mark.slow  # tests/test_missing.py exports the scorer of a table
@pytest.mark.parametrize(("shape", "positions"), [((7,), (7,)), ((2, 9), (9,))])
def test_maps_of_tables_and_signals(make: Make, shape: tuple[int, ...], positions: tuple[int, ...], tmp_path: Path) -> None:
    trained = with_threshold(make(shape, likelihood="gaussian"), "squared_error")
    path = Onnx().export(trained, "scorer", tmp_path / "scorer.onnx").path
    found = check(trained, path, "squared_error", images(trained))
    assert found["map"].shape == (20, *positions)
    assert 0 < found["is_anomaly"].sum() < 20


def test_pixels_are_compared_with_one_half_where_the_model_sees_black_and_white_and_large_logits_are_finite(
    make: Make, tmp_path: Path
) -> None:
    plain = make(binarize="threshold")
    last = next(module for module in reversed([*plain.vae.decoder.modules()]) if isinstance(module, torch.nn.Linear))
    last.bias = torch.nn.Parameter(torch.linspace(-400, 400, len(last.weight)), requires_grad=False)
    trained = with_threshold(plain)
    path = Onnx().export(trained, "scorer", tmp_path / "scorer.onnx").path
    x = images(trained)
    grey, found = run(path, x), check(trained, path, "elbo", (x > 0.5).float())
    assert all((found[name] == grey[name]).all() for name in found)
    assert found["score"].min() > 1000


@pytest.mark.parametrize("function", FORMULAS, ids=str)
def test_formulas_are_those_of_torch(function: Any) -> None:
    x = torch.linspace(-300, 300, 121, dtype=torch.float64)
    target = torch.rand(121, dtype=torch.float64)
    given = {
        torch.ops.aten.log_sigmoid.default: [(x,)],
        torch.ops.aten.binary_cross_entropy_with_logits.default: [(x, target, None, None, reduction) for reduction in (0, 1, 2)],
        torch.ops.aten.lgamma.default: [(torch.logspace(-6, 6, 200, dtype=torch.float64),)],
    }
    for arguments in given[function]:
        torch.testing.assert_close(FORMULAS[function](*arguments), function(*arguments), rtol=1e-8, atol=2e-8)


@pytest.mark.slow
def test_scorers_in_the_format_of_torch(make: Make, tmp_path: Path) -> None:
    trained = with_threshold(make())
    path = Torch().export(trained, "scorer", tmp_path / "scorer.pt2").path
    x = images(trained)
    score, *_ = torch.export.load(path).module()(x)
    np.testing.assert_allclose(score, reference(trained, "elbo", x)[0], rtol=1e-6)


# What cannot be


def test_a_run_without_a_threshold_says_how_to_choose_one(labelled_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="needs a threshold") as error:
        vaekit.Run(labelled_run).export(part="scorer", out=tmp_path / "scorer.onnx")
    assert "vaekit score RUN --deterministic --quantile 0.95" in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("changes", [{"deterministic": False}, {"score": "input_complexity"}])
def test_thresholds_of_other_scores_are_refused(make: Make, changes: dict[str, Any], tmp_path: Path) -> None:
    trained = with_threshold(make())
    assert trained.threshold is not None
    other = replace(trained, threshold=replace(trained.threshold, **changes))
    with pytest.raises(ExportError, match="cannot apply the threshold") as error:
        Onnx().export(other, "scorer", tmp_path / "scorer.onnx")
    assert "elbo, kl, reconstruction, squared_error" in str(error.value)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_thresholds_need_full_precision(make: Make, precision: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="full precision"):
        Onnx(**{precision: True}).export(with_threshold(make()), "scorer", tmp_path / "scorer.onnx")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_posterior_without_a_density_has_no_elbo_to_export(make: Make, tmp_path: Path) -> None:
    trained = replace(make(posterior="delta"), threshold=with_threshold(make()).threshold)
    with pytest.raises(vaekit.VaekitError, match="the score elbo needs a posterior"):
        Onnx().export(trained, "scorer", tmp_path / "scorer.onnx")


@pytest.mark.filterwarnings("default:the threshold is ignored")
def test_a_threshold_of_other_weights_is_ignored(scored: tuple[vaekit.Run, Path], tmp_path: Path) -> None:
    opened = vaekit.Run(shutil.copytree(scored[0].path, tmp_path / "run"))
    stored = json.loads((opened.path / "threshold.json").read_text())
    (opened.path / "threshold.json").write_text(json.dumps(stored | {"epoch": stored["epoch"] + 1}))
    with pytest.warns(UserWarning, match="the threshold is ignored"), pytest.raises(ExportError, match="needs a threshold"):
        opened.export(part="scorer")
