"""The playground in a real browser: from disk, without a request, by keyboard, and equal to ONNX Runtime in Python."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import vaekit
from vaekit.export.reading import OnnxFile

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PLUGIN = ROOT / "plugins" / "vaekit-playground"
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CONTROLS = {"reset", "slider", "random", "pad", "interpolation", "sample", "end", "grid"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser is installed: {', '.join(BROWSERS)}")
    return found


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the programs that drive the browser, and what they need."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("drivers")
    for file in (HERE / "package.json", *HERE.glob("*.mjs")):
        shutil.copy(file, folder)
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"playwright-core cannot be installed: {done.stderr[-300:]}")
    return folder


@pytest.fixture(scope="module")
def coloured_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coloured")
    rng = np.random.default_rng(0)
    images = (rng.random((160, 1, 1, 3)) * np.linspace(40, 255, 9)[:, None, None] * np.ones((7, 1))).astype(np.uint8)
    np.savez(folder / "images.npz", images=images)
    training = {"epochs": 2, "batch_size": 16, "threads": 1, "device": "cpu", "latent_dim": 18, "likelihood": "bce"}
    data = {"dataset": "array", "dataset.path": str(folder / "images.npz"), "pictures": "none"}
    return vaekit.train(encoder="cnn", **training, **data, out=folder / "run").path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin as an installer leaves it."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(PLUGIN / "src" / "vaekit_playground", folder / "vaekit_playground")
    about = folder / "vaekit_playground-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: vaekit-playground\nVersion: 0.1.0\n", "utf-8")
    entry_points = "[vaekit.exporters]\nplayground = vaekit_playground.exporter:Playground\n"
    (about / "entry_points.txt").write_text(entry_points, "utf-8")
    return folder


def export(run: Path, site: Path, *arguments: str) -> None:
    environment = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "VAEKIT_PLUGINS": "1"}
    command = [sys.executable, "-m", "vaekit", "export", str(run), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    if "npm" in done.stderr and "could not fetch" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr


def drive(drivers: Path, program: str, *arguments: str) -> Any:
    result = drivers / "result.json"
    subprocess.run(["node", program, *arguments, str(result)], cwd=drivers, check=True, timeout=240)
    return json.loads(result.read_text("utf-8"))


def picture(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """An image with a bright corner, of a model's size: height, width and 3."""
    image = np.full((*shape[1:], 3), 20, np.uint8)
    image[: shape[1] // 2, : shape[2] // 2] = (250, 120, 60)
    return image


@pytest.mark.parametrize("kind", ["labelled_run", "coloured_run"], ids=["grey", "coloured"])
def test_the_page_works_from_disk_and_equals_the_model(
    kind: str, request: pytest.FixtureRequest, browser: str, drivers: Path, site: Path, tmp_path: Path
) -> None:
    run = request.getfixturevalue(kind)
    page = tmp_path / "a page.html"
    export(run, site, "--playground", str(page))
    export(run, site, "--onnx", str(tmp_path / "decoder.onnx"))
    export(run, site, "--part", "encoder", "--onnx", str(tmp_path / "encoder.onnx"))
    decoder, encoder = OnnxFile(tmp_path / "decoder.onnx"), OnnxFile(tmp_path / "encoder.onnx")
    shape, size = decoder.metadata["image_shape"], decoder.metadata["latent_size"]
    image = picture(shape)
    Image.fromarray(image).save(tmp_path / "image.png")
    latents = np.random.default_rng(0).normal(size=(4, size)).astype(np.float32)

    record = drive(drivers, "playground.mjs", browser, page.as_uri(), str(tmp_path / "image.png"), json.dumps(latents.tolist()))

    assert record["complaints"] == []
    assert record["requests"][0] == page.as_uri()
    assert all(address.startswith(("blob:", "data:")) for address in record["requests"][1:]), record["requests"]
    [expected] = decoder.function(latents)
    assert np.abs(np.reshape(record["decoded"], expected.shape) - expected).max() <= 1e-5

    kl = [latent["kl"] for latent in decoder.metadata["latents"]]
    ranges = [latent["range"] for latent in decoder.metadata["latents"]]
    assert [name for name, *_ in record["sliders"]] == [f"z{i}" for i in sorted(range(size), key=lambda i: -kl[i])]
    for name, low, high in record["sliders"]:
        assert (low, high) == pytest.approx(ranges[int(name[1:])])
    assert record["changed"] == dict.fromkeys(CONTROLS, True)
    assert record["unnamed"] == []
    assert record["overflow"] <= 0

    at, shown = record["picture"]
    [expected] = decoder.function(np.array([at], np.float32))
    assert np.abs(np.reshape(shown, expected.shape) - expected).max() <= 1e-5
    saved = np.asarray(Image.open(io.BytesIO(base64.b64decode(record["png"]))).convert("RGB"))
    factor = 512 // max(shape[1:])
    wanted = np.broadcast_to(expected[0].transpose(1, 2, 0) * 255, (*shape[1:], 3)).repeat(factor, 0).repeat(factor, 1)
    assert saved.shape == wanted.shape
    assert np.abs(saved - wanted).max() <= 0.51

    planes = image.transpose(2, 0, 1)[None].astype(np.float32) / 255
    if shape[0] == 1:
        planes = np.tensordot(planes, np.array([0.299, 0.587, 0.114], np.float32), ([1], [0]))[:, None].astype(np.float32)
    mean = encoder.function(planes)[0][0]
    assert np.abs(record["encoded"] - mean).max() <= 1e-5 * max(1, np.abs(mean).max())
