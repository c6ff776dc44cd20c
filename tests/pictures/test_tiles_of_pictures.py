"""Pictures larger or smaller than the model's images, reconstructed and drawn in tiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import vaekit
from vaekit.cli import main
from vaekit.errors import UsageError
from vaekit.model.tiling import Tiling


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model of colour images of 16×16 with a grid of 4×4 latents."""
    folder = tmp_path_factory.mktemp("grid")
    np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8))
    networks = {"encoder": "cnn", "decoder": "cnn", "encoder.channels": (8, 8), "decoder.channels": (8, 8)}
    data = {"dataset": "array", "dataset.path": str(folder / "images.npy"), "likelihood": "bce"}
    fixed = {"latent_dim": 2, "latent_stride": 4, "batch_size": 16, "epochs": 1, "device": "cpu", "pictures": "none"}
    return vaekit.train(**networks, **data, **fixed, out=folder / "run")


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    return tmp_path / "large.png", pixels


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_an_image_keeps_its_size(run, picture, tmp_path, capsys):
    path, original = picture
    assert main(["reconstruct", str(run.path), str(path), "--tile", "--out", str(tmp_path / "out.png")]) == 0
    capsys.readouterr()
    sheet = pixels_of(tmp_path / "out.png")
    x = torch.from_numpy(original).permute(2, 0, 1)[None] / 255
    made = (Tiling(run.vae()).reconstruct(x)[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(sheet[2:72, 2:92], original)
    assert np.array_equal(sheet[74:144, 2:92], made)


def test_images_of_several_sizes_are_side_by_side(run, picture, tmp_path):
    path, original = picture
    folder = tmp_path / "folder"
    folder.mkdir()
    Image.fromarray(original[:60, :56]).save(folder / "small.png")
    sheet = pixels_of(run.pictures.reconstruct([path, folder, 0], tile=True, out=tmp_path / "out.png"))
    assert sheet.shape == (2 * 70 + 6, 94 + 60 + 68, 3)  # the test image is enlarged fourfold
    assert np.array_equal(sheet[2:62, 96:152], original[:60, :56])


def test_keeping_the_size_excludes_resizing(run, picture, tmp_path):
    with pytest.raises(UsageError, match="keep their size"):
        run.pictures.reconstruct([picture[0]], tile=True, fit="crop", out=tmp_path / "out.png")


def test_a_vector_of_latents_has_no_tiles(labelled_run, tmp_path):
    with pytest.raises(UsageError, match="grid of latents"):
        vaekit.Run(labelled_run).pictures.reconstruct([0], tile=True, out=tmp_path / "out.png")


def test_samples_of_another_size(run, tmp_path, capsys):
    arguments = ["sample", str(run.path), "--num", "2", "--separate"]
    assert main([*arguments, "--size", "70,90", "--out", str(tmp_path / "large")]) == 0
    assert pixels_of(tmp_path / "large" / "0.png").shape == (70, 90, 3)
    for name, more in (("own", []), ("same", ["--size", "16,16"])):
        assert main([*arguments, *more, "--out", str(tmp_path / name)]) == 0
    capsys.readouterr()
    assert np.array_equal(pixels_of(tmp_path / "own" / "1.png"), pixels_of(tmp_path / "same" / "1.png"))
