"""The examples that run an exported decoder elsewhere: Python without torch, Node, an HTTP service."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vaekit.components.exporters.onnx import Onnx
from vaekit.data.facts import Facts
from vaekit.evaluation.detection import Threshold
from vaekit.evaluation.scores import numbers_of, trace_of_means
from vaekit.export.trained import Latent, Trained
from vaekit.model.assembly import build_vae
from vaekit.model.vae import VAE
from vaekit.specs.options import build_spec

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def vae() -> VAE:
    spec = build_spec({}, {"latent_dim": 3, "encoder.hidden": (8,), "decoder.hidden": (16,)})
    return build_vae(spec.model, Facts(data_shape=(1, 9, 7)), seed=0).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def decoder(vae: VAE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = build_spec({}, {"latent_dim": 3, "encoder.hidden": (8,), "decoder.hidden": (16,)})
    trained = Trained(vae, spec, {}, tuple(Latent(0.0, 1.0, float(i)) for i in range(3)))
    return Onnx().export(trained, "decoder", tmp_path_factory.mktemp("export") / "decoder.onnx").path


def pixels(vae: VAE, latents: Any) -> np.ndarray[Any, Any]:
    image = vae.decode(torch.as_tensor(np.asarray(latents), dtype=torch.float32))
    return np.rint(255 * image.numpy())


# Python


WITHOUT_TORCH = """
import runpy, sys
sys.modules["torch"] = sys.modules["vaekit"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_python_samples_like_the_model_without_torch(vae: VAE, decoder: Path, tmp_path: Path) -> None:
    program = [sys.executable, "-c", WITHOUT_TORCH, str(EXAMPLES / "onnx_python" / "sample.py"), str(decoder)]
    subprocess.run([*program, str(tmp_path / "grid.png"), "--seed", "5"], check=True, timeout=60)
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (8 * 9, 8 * 7)
    expected = pixels(vae, np.random.default_rng(5).standard_normal((8, 8, 3))[0, :2])
    assert np.abs(grid[:9, :14].astype(float) - np.concatenate([expected[0, 0], expected[1, 0]], 1)).max() <= 1
    subprocess.run([*program, str(tmp_path / "walk.png"), "--latent"], check=True, timeout=60)
    assert np.asarray(Image.open(tmp_path / "walk.png")).shape == (3 * 9, 9 * 7)


# Node


@pytest.mark.slow
def test_node_decodes_like_the_model(vae: VAE, decoder: Path, tmp_path: Path) -> None:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("node and npm are not installed")
    example = Path(shutil.copytree(EXAMPLES / "onnx_node", tmp_path / "example"))
    install = subprocess.run(
        [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=example,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if install.returncode:
        pytest.skip(f"onnxruntime-node cannot be installed: {install.stderr[-300:]}")
    picture = tmp_path / "image.pgm"
    subprocess.run([node, "sample.mjs", str(decoder), str(picture), "0.5,-1,2"], cwd=example, check=True, timeout=60)
    image = np.asarray(Image.open(picture)).astype(float)
    assert np.abs(image - pixels(vae, [[0.5, -1.0, 2.0]])[0, 0]).max() <= 1
    subprocess.run([node, "sample.mjs", str(decoder), str(picture)], cwd=example, check=True, timeout=60)
    wrong = subprocess.run(
        [node, "sample.mjs", str(decoder), str(picture), "1,x"],
        cwd=example,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (wrong.returncode, wrong.stderr) == (2, "expected 3 numbers\n")


# HTTP


def load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("service", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["service"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def client(decoder: Path) -> Any:
    pytest.importorskip("fastapi", reason="fastapi is not installed")
    pytest.importorskip("httpx2", reason="httpx2 is not installed")
    from fastapi.testclient import TestClient

    return TestClient(load(EXAMPLES / "onnx_http" / "service.py").create_app(str(decoder)))


def test_service_decodes_like_the_model(vae: VAE, client: Any) -> None:
    latents = np.random.default_rng(0).standard_normal((64, 3))
    answer = client.post("/decode", json={"latents": latents.tolist()})
    assert answer.status_code == 200
    expected = vae.decode(torch.as_tensor(latents, dtype=torch.float32)).numpy()
    assert np.abs(np.array(answer.json()["images"]) - expected).max() <= 1e-5


@pytest.mark.parametrize("how", ["with its length", "in pieces"])
def test_service_refuses_large_bodies_without_reading_them(client: Any, how: str) -> None:
    pieces = (b" " * 1_000_000 for _ in range(5))
    answer = client.post("/decode", content=b" " * 5_000_000 if how == "with its length" else pieces)
    assert answer.status_code == 413
    assert "limited to" in answer.json()["detail"]
    small = b" " * 5_000 + b'{"latents": [[0, 0, 0]]}'
    assert client.post("/decode", content=small, headers={"Content-Type": "application/json"}).status_code == 200


def test_service_refuses_unknown_keys(client: Any) -> None:
    answer = client.post("/decode", json={"latents": [[0, 0, 0]], "temperature": 0.5})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["at"] == ["body", "temperature"]


def test_service_samples_by_seed(vae: VAE, client: Any) -> None:
    answers = [client.get("/sample", params={"seed": seed}) for seed in (3, 3, 4)]
    assert answers[0].headers["content-type"] == "image/png"
    assert answers[0].content == answers[1].content != answers[2].content
    image = np.asarray(Image.open(io.BytesIO(answers[0].content))).astype(float)
    assert np.abs(image - pixels(vae, np.random.default_rng(3).standard_normal((1, 3)))[0, 0]).max() <= 1


def test_service_returns_ranges(client: Any) -> None:
    about = client.get("/about").json()
    assert (about["latent_size"], about["data_shape"]) == (3, [1, 9, 7])
    assert about["latents"][2] == {"mean": 0.0, "std": 1.0, "range": [-3.0, 3.0], "kl": 2.0}


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ('{"latents": [[1, 2]]}', "must have 3 numbers; given [2]"),
        ('{"latents": [[1, 2, 3], [1, 2, 3, 4]]}', "must have 3 numbers; given [3, 4]"),
        ('{"latents": [[1, 2, NaN]]}', "finite number"),
        ('{"latents": [[1, 2, Infinity]]}', "finite number"),
        ('{"latents": [[1, 2, 1e39]]}', "too large"),
        ('{"latents": []}', "at least 1"),
        ('{"latents": [[1, 2, "x"]]}', "valid number"),
        ('{"latents": 3}', "valid list"),
        ("{}", "required"),
        ("nonsense", "JSON"),
        (json.dumps({"latents": [[0, 0, 0]] * 65}), "at most 64"),
    ],
)
def test_service_refuses_invalid_latents(client: Any, body: str, part: str) -> None:
    answer = client.post("/decode", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert part in answer.text


@pytest.mark.parametrize("seed", ["-1", "x", str(2**63)])
def test_service_refuses_invalid_seeds(client: Any, seed: str) -> None:
    assert client.get("/sample", params={"seed": seed}).status_code == 422


# A scorer over HTTP


@pytest.fixture(scope="module")
def scorer(vae: VAE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = build_spec({}, {"latent_dim": 3, "encoder.hidden": (8,), "decoder.hidden": (16,)})
    threshold = Threshold("elbo", value=43.7, low=40.0, high=50.0, quantile=0.95, source="here", num_images=9, deterministic=True)
    trained = Trained(vae, spec, {}, tuple(Latent(0.0, 1.0, float(i)) for i in range(3)), threshold=threshold)
    return Onnx().export(trained, "scorer", tmp_path_factory.mktemp("export") / "scorer.onnx").path


@pytest.fixture(scope="module")
def scoring(scorer: Path) -> Any:
    pytest.importorskip("fastapi", reason="fastapi is not installed")
    pytest.importorskip("httpx2", reason="httpx2 is not installed")
    from fastapi.testclient import TestClient

    return TestClient(load(EXAMPLES / "onnx_scorer" / "service.py").create_app(str(scorer)))


def png(image: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def test_service_scores_as_the_model_does(vae: VAE, scoring: Any) -> None:
    flags = []
    for seed in range(8):
        image = np.random.default_rng(seed).integers(0, 256, (9, 7), dtype=np.uint8)
        x = torch.from_numpy(image)[None, None] / 255
        expected = -float(numbers_of(trace_of_means(vae, x))["elbo"])
        answer = scoring.post("/score", content=png(image)).json()
        assert answer["score"] == pytest.approx(expected, rel=1e-5)
        assert answer["is_anomaly"] == (expected > 43.7)
        assert answer["normalised_score"] == pytest.approx(min(1, max(0, (expected - 43.7) / 10 + 0.5)), abs=1e-4)
        flags.append(answer["is_anomaly"])
        drawn = np.asarray(Image.open(io.BytesIO(scoring.post("/map", content=png(image)).content))).astype(float)
        assert np.abs(drawn - 255 * (x - vae.reconstruct(x)).abs()[0, 0].numpy()).max() <= 1
    assert 0 < sum(flags) < 8


def test_scoring_service_tells_its_threshold(scoring: Any) -> None:
    about = scoring.get("/about").json()
    assert (about["data_shape"], about["threshold"]["value"], about["threshold"]["score"]) == ([1, 9, 7], 43.7, "elbo")


def test_scoring_service_refuses_what_it_cannot_score(scoring: Any) -> None:
    other = png(np.zeros((10, 7), np.uint8))
    whole = png(np.random.default_rng(0).integers(0, 256, (9, 7), dtype=np.uint8))
    for content, status, part in (
        (other, 422, "images are 7×9 (width × height); given 7×10"),
        (b"nonsense", 422, "not a complete image file"),
        (whole[:60], 422, "not a complete image file"),
        (b"", 422, "not a complete image file"),
        (b" " * 6_000_000, 413, "at most"),
    ):
        answer = scoring.post("/score", content=content)
        assert (answer.status_code, part in answer.json()["detail"]) == (status, True)
