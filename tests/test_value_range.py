"""A model of data outside [0, 1]: exports, pictures, files and messages use the range of the data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import vaekit
from vaekit.export.verification import verify
from vaekit.streams import Streams

LOW, HIGH = -1.0, 3.0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> vaekit.Run:
    """A run on images whose left half has the lowest value and whose right half varies up to the highest."""
    folder = tmp_path_factory.mktemp("range")
    images = np.full((600, 8, 8), LOW, np.float32)
    images[:, :, 4:] = np.linspace(2, HIGH, 600)[:, None, None]
    np.save(folder / "images.npy", images)
    return vaekit.train(
        dataset="array",
        loss="gaussian",
        latent_dim=2,
        epochs=15,
        lr=5e-3,
        batch_size=16,
        threads=1,
        device="cpu",
        out=folder / "run",
        **{
            "dataset.path": str(folder / "images.npy"),
            "likelihood.link": "identity",
            "encoder.hidden": (32,),
            "pictures": "none",
        },
    )


def test_the_range_is_part_of_the_model(run: vaekit.Run) -> None:
    assert run.header.facts.value_range == run.vae().value_range == vaekit.load(run.path).value_range == (LOW, HIGH)


def test_the_exported_decoder_equals_the_model(run: vaekit.Run, tmp_path: Path) -> None:
    exported = run.export("onnx", out=tmp_path / "decoder.onnx")
    vae, z = run.vae(), torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    [images] = onnxruntime.InferenceSession(exported.path).run(None, {"latent": z.numpy()})
    assert np.abs(images - vae.decode(z).clamp(LOW, HIGH).numpy()).max() < 1e-5
    assert images.min() < -0.5
    assert images.max() > 1.8
    assert verify(exported.path).difference < 1e-5
    assert verify(exported.path, run.trained()).difference < 1e-5
    assert '"value_range": [\n    -1.0,\n    3.0\n  ]' in (tmp_path / "decoder.json").read_text("utf-8")


@pytest.mark.parametrize("part", ["encoder", "autoencoder"])
def test_the_other_parts_are_verified_in_the_range(run: vaekit.Run, tmp_path: Path, part: str) -> None:
    exported = run.export("onnx", part=part, out=tmp_path / f"{part}.onnx")  # type: ignore[arg-type]
    assert verify(exported.path).difference < 1e-5


def test_pictures_show_the_lowest_value_as_black_and_the_highest_as_white(run: vaekit.Run, tmp_path: Path) -> None:
    original = run.splits.test.gather(torch.tensor([0]))[0, 0]
    pixels = np.asarray(Image.open(run.reconstruct([0], out=tmp_path / "a.png"))).astype(int)
    expected = ((original - LOW) / (HIGH - LOW) * 255).repeat_interleave(7, 0).repeat_interleave(7, 1).numpy()
    assert np.abs(pixels[2:58, 2:58] - expected).max() <= 1
    assert np.abs(pixels[60:116, 2:58] - expected).mean() < 30  # the reconstruction below it
    sample = run.vae().sample(1, generator=Streams(0).generator("sample"))[0, 0]
    expected = ((sample - LOW) / (HIGH - LOW)).clamp(0, 1).repeat_interleave(7, 0).repeat_interleave(7, 1).numpy() * 255
    pixels = np.asarray(Image.open(run.sample(1, out=tmp_path / "b.png"))).astype(int)
    assert np.abs(pixels[2:58, 2:58] - expected).max() <= 1


def test_applications_show_the_lowest_value_as_black(run: vaekit.Run, tmp_path: Path) -> None:
    run.export("onnx", out=tmp_path / "decoder.onnx")
    script = Path(__file__).parents[1] / "examples" / "onnx_python" / "sample.py"
    command = [sys.executable, str(script), "decoder.onnx", "picture.png", "--seed", "0"]
    subprocess.run(command, check=True, cwd=tmp_path)
    z = torch.from_numpy(np.random.default_rng(0).standard_normal((8, 8, 2)).reshape(-1, 2).astype(np.float32))
    expected = run.vae().to_unit(run.vae().decode(z))[0, 0].numpy() * 255
    assert np.abs(np.asarray(Image.open(tmp_path / "picture.png")).astype(int)[:8, :8] - expected).max() <= 1


def test_a_users_file_is_rescaled_to_the_range(run: vaekit.Run, tmp_path: Path) -> None:
    test = run.splits.test.gather(torch.tensor([0]))[0, 0]
    unit = ((test - LOW) / (HIGH - LOW) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(unit).save(tmp_path / "file.png")
    own, file = (Image.open(run.reconstruct([given], out=tmp_path / "out.png")).copy() for given in (0, tmp_path / "file.png"))
    assert np.abs(np.asarray(own).astype(int) - np.asarray(file).astype(int)).max() <= 3


def test_metrics_state_their_range(run: vaekit.Run) -> None:
    evaluation = run.evaluation()
    assert evaluation is not None
    assert evaluation["elbo_is"] == "lower bound of the log density of pixels in [-1, 3], nats"
    assert "bits_per_dim" not in evaluation
