"""Pages in a real browser, equal to ONNX Runtime in Python.

The playground works from disk, without a request and by keyboard; the example of a page that loads a decoder works from a server.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import vaekit
from vaekit.export.reading import OnnxFile

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "plugins" / "vaekit-playground"
CONTROLS = {"reset", "slider", "random", "pad", "interpolation", "sample", "end", "grid"}

Drive = Callable[..., Any]
Serve = Callable[[Path], AbstractContextManager[str]]

pytestmark = pytest.mark.slow


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
    """The installed plugin."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(PLUGIN / "src" / "vaekit_playground", folder / "vaekit_playground")
    about = folder / "vaekit_playground-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: vaekit-playground\nVersion: 0.1.0\n", "utf-8")
    entry_points = "[vaekit.exporters]\nplayground = vaekit_playground.exporter:Playground\n"
    (about / "entry_points.txt").write_text(entry_points, "utf-8")
    return folder


@pytest.fixture(scope="module")
def export_page(site: Path) -> Callable[[Path, Path], None]:
    """Exports a playground from the command line."""

    def run(folder: Path, page: Path) -> None:
        environment = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "VAEKIT_PLUGINS": "1"}
        command = [sys.executable, "-m", "vaekit", "export", str(folder), "--playground", str(page)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
        if "npm could not fetch" in done.stderr:
            pytest.skip(done.stderr)
        assert done.returncode == 0, done.stderr

    return run


def picture(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """An image with a bright corner, of a model's size: height, width and 3."""
    image = np.full((*shape[1:], 3), 20, np.uint8)
    image[: shape[1] // 2, : shape[2] // 2] = (250, 120, 60)
    return image


@pytest.mark.parametrize("kind", ["labelled_run", "coloured_run"], ids=["grey", "coloured"])
def test_the_page_works_from_disk_and_equals_the_model(
    kind: str, request: pytest.FixtureRequest, export_page: Callable[[Path, Path], None], drive: Drive, tmp_path: Path
) -> None:
    run = request.getfixturevalue(kind)
    page = tmp_path / "a page.html"
    export_page(run, page)
    parts = ("decoder", "encoder")
    decoder, encoder = (OnnxFile(vaekit.Run(run).export(part=part, out=tmp_path / f"{part}.onnx").path) for part in parts)
    shape, size = decoder.metadata["data_shape"], decoder.metadata["latent_size"]
    image = picture(shape)
    Image.fromarray(image).save(tmp_path / "image.png")
    latents = np.random.default_rng(0).normal(size=(4, size)).astype(np.float32)

    record = drive("playground.mjs", page.as_uri(), str(tmp_path / "image.png"), json.dumps(latents.tolist()))

    assert record["complaints"] == []
    assert record["requests"][0] == page.as_uri()
    assert all(address.startswith(("blob:", "data:")) for address in record["requests"][1:]), record["requests"]
    [expected] = decoder.function([latents])
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
    [expected] = decoder.function([np.array([at], np.float32)])
    assert np.abs(np.reshape(shown, expected.shape) - expected).max() <= 1e-5
    saved = np.asarray(Image.open(io.BytesIO(base64.b64decode(record["png"]))).convert("RGB"))
    factor = 512 // max(shape[1:])
    wanted = np.broadcast_to(expected[0].transpose(1, 2, 0) * 255, (*shape[1:], 3)).repeat(factor, 0).repeat(factor, 1)
    assert saved.shape == wanted.shape
    assert np.abs(saved - wanted).max() <= 0.51

    planes = image.transpose(2, 0, 1)[None].astype(np.float32) / 255
    if shape[0] == 1:
        planes = np.tensordot(planes, np.array([0.299, 0.587, 0.114], np.float32), ([1], [0]))[:, None].astype(np.float32)
    mean = encoder.function([planes])[0][0]
    assert np.abs(record["encoded"] - mean).max() <= 1e-5 * max(1, np.abs(mean).max())
    assert record["dropped"] == record["encoded"]


def test_the_example_page_equals_the_model(labelled_run: Path, example: Path, drive: Drive, serve: Serve) -> None:
    decoder = OnnxFile(vaekit.Run(labelled_run).export(out=example / "decoder.onnx").path)
    with serve(example) as address:
        record = drive("example.mjs", address)
    assert record["complaints"] == []
    assert all(request.startswith((address, "blob:", "data:")) for request in record["requests"])
    [expected] = decoder.function([np.array([latent for latent, _ in record["shown"]], np.float32)])
    shown = np.array([pixels for _, pixels in record["shown"]], float).reshape(len(expected), *expected.shape[2:], 4)
    assert np.abs(shown[..., 0] - 255 * expected[:, 0]).max() <= 0.51
    assert (shown[..., 3] == 255).all()
    assert np.abs(shown[0] - shown[1]).max() > 0
