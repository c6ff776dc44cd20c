"""A label-conditional model, from the data to pictures and an exported file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import vaekit
from vaekit.drawing.grid import grid
from vaekit.drawing.latents import decode
from vaekit.errors import UsageError, VaekitError
from vaekit.model.vae import appended
from vaekit.streams import Streams

Cli = Callable[..., tuple[int, str, str]]
NUM_CLASSES = 3


def data(path: Path, *, labels: bool = True) -> Path:
    """Write images whose class is a horizontal bar in one of three rows, and whose brightness varies."""
    rng = np.random.default_rng(0)
    y = rng.integers(NUM_CLASSES, size=300)
    images = np.zeros((300, 6, 6), np.uint8)
    images[np.arange(300), 2 * y] = rng.integers(100, 256, (300, 1))
    np.savez(path, images=images, **({"labels": np.array(["low", "mid", "top"])[y]} if labels else {}))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> vaekit.Run:
    folder = tmp_path_factory.mktemp("label")
    options: dict[str, Any] = {
        "condition": "label",
        "latent_dim": 2,
        "loss": "beta",
        "beta": 4,
        "epochs": 60,
        "lr": 1e-2,
        "batch_size": 32,
    }
    options |= {"encoder.hidden": (32,), "decoder.hidden": (32,), "pictures": "2", "threads": 1, "device": "cpu"}
    return vaekit.train(dataset="array", **{"dataset.path": str(data(folder / "bars.npz"))}, **options, out=folder / "run")


def test_the_appended_condition_is_constant_over_positions() -> None:
    x, c = torch.rand(2, 1, 3, 4), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    wide = appended(x, c)
    assert torch.equal(wide[:, :1], x)
    torch.testing.assert_close(wide[:, 1:], c[:, :, None, None].expand(2, 2, 3, 4) / math.sqrt(12))
    torch.testing.assert_close(wide[:, 1:].flatten(1).norm(dim=1), c.norm(dim=1))
    assert torch.equal(appended(torch.zeros(2, 3), c), torch.cat([torch.zeros(2, 3), c], 1))


def test_each_of_several_samples_is_decoded_with_the_label_of_its_example(run: vaekit.Run) -> None:
    vae = run.vae()
    z, y = torch.randn(5, 4, 2), torch.tensor([0, 2, 1, 0])
    assert torch.allclose(vae.decode(z, y), torch.stack([vae.decode(each, y) for each in z]), atol=1e-6)
    trace = vae(torch.rand(4, 1, 6, 6), torch.randn(5, 4, 2), y=y)
    assert trace.log_weight.shape == (5, 4)


def test_a_sampled_image_is_of_the_requested_class(run: vaekit.Run) -> None:
    vae = run.vae()
    for label in range(NUM_CLASSES):
        images = vae.sample(20, y=torch.full((20,), label), generator=torch.Generator().manual_seed(0))[:, 0]
        assert (images.sum(2).argmax(1) == 2 * label).float().mean() > 0.9
    y, draws = torch.tensor([0, 1, 2, 0, 1, 2]), [torch.Generator().manual_seed(0) for _ in range(2)]
    assert torch.equal(vae.sample(6, generator=draws[0]), vae.sample(6, y=y, generator=draws[1]))


def test_codes_of_a_conditional_model_can_omit_the_class(run: vaekit.Run) -> None:
    images, labels, _ = run.pictures.subject.test(range(run.pictures.subject.num_test(30)))
    assert labels is not None
    vae = run.vae()
    other = vae.decode(vae.encode(images, labels).mean, (labels + 1) % NUM_CLASSES)[:, 0]
    assert (other.sum(2).argmax(1) == 2 * ((labels + 1) % NUM_CLASSES)).float().mean() > 0.9


def test_labels_are_needed(run: vaekit.Run, tmp_path: Path) -> None:
    vae = run.vae()
    for call in (
        lambda: vae.encode(torch.rand(2, 1, 6, 6)),
        lambda: vae.decode(torch.zeros(2, 2)),
        lambda: vae(torch.rand(2, 1, 6, 6)),
    ):
        with pytest.raises(UsageError, match="conditional on 'label'"):
            call()
    path = str(data(tmp_path / "bars.npz", labels=False))
    with pytest.raises(VaekitError, match="condition 'label' needs labels, but the data have none"):
        vaekit.train(dataset="array", **{"dataset.path": path}, condition="label", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pictures_show_the_requested_class(run: vaekit.Run, cli: Cli, tmp_path: Path) -> None:
    def drawn(*arguments: str) -> bytes:
        code, _, err = cli(*arguments, "--out", str(tmp_path / "a.png"))
        assert code == 0, err
        return (tmp_path / "a.png").read_bytes()

    place = str(run.path)
    assert drawn("sample", place, "--label", "top") == drawn("sample", place, "--label", "2") != drawn("sample", place)
    assert drawn("manifold", place, "--side", "3", "--label", "mid") != drawn("manifold", place, "--side", "3")
    code, _, err = cli("sample", place, "--label", "side")
    assert code == 2
    assert "expected: low, mid, top" in " ".join(err.split())


def test_the_class_of_a_file_must_be_named(run: vaekit.Run, cli: Cli, tmp_path: Path) -> None:
    assert cli("sample", str(run.path), "--separate", "--num", "1", "--out", str(tmp_path / "files"))[0] == 0
    file = next((tmp_path / "files").iterdir())
    code, _, err = cli("reconstruct", str(run.path), str(file))
    assert code == 2
    assert "--label" in err
    assert cli("reconstruct", str(run.path), str(file), "0", "--label", "low", "--out", str(tmp_path / "a.png"))[0] == 0


def test_an_unconditional_model_accepts_no_class(labelled_run: Path, cli: Cli) -> None:
    code, _, err = cli("sample", str(labelled_run), "--label", "0")
    assert code == 2
    assert "not conditional" in err


def test_interpolated_conditions_lie_between_two_classes(run: vaekit.Run) -> None:
    vae, z = run.vae(), torch.zeros(3, 2)
    ends = vae.condition_on(torch.tensor([0, 2]))
    assert ends is not None
    between = torch.stack([ends[0], ends.mean(0), ends[1]])
    images = decode(vae, z, between)
    assert torch.allclose(images[[0, 2]], vae.to_unit(vae.decode(z[:2], torch.tensor([0, 2]))), atol=1e-6)
    assert not torch.allclose(images[1], images[0], atol=1e-2)


def test_an_exported_decoder_takes_latents_and_labels(run: vaekit.Run) -> None:
    path = run.export("onnx").path
    about = json.loads(path.with_suffix(".json").read_text())
    assert [port["name"] for port in about["inputs"]] == ["latent", "label"]
    assert about["inputs"][1] == {"name": "label", "type": "int64", "shape": ["batch"]}
    assert about["class_names"] == ["low", "mid", "top"]
    session = onnxruntime.InferenceSession(str(path))
    z, y = np.random.default_rng(0).standard_normal((4, 2)).astype(np.float32), np.array([0, 1, 2, 0])
    (images,) = session.run(None, {"latent": z, "label": y})
    assert np.abs(images - run.vae().decode(torch.from_numpy(z), torch.from_numpy(y)).clamp(0, 1).numpy()).max() < 1e-5


def test_every_class_has_a_column_of_samples(run: vaekit.Run, tmp_path: Path) -> None:
    vae, y = run.vae(), torch.arange(6) % NUM_CLASSES
    expected = grid(vae.to_unit(vae.sample(6, y=y, generator=Streams(0).generator("sample"))), columns=NUM_CLASSES)
    assert np.array_equal(np.asarray(Image.open(run.sample(6, out=tmp_path / "a.png"))), np.asarray(expected))
