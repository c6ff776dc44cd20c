"""The torch format: runs without vaekit, and equals the model."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vaekit.components.exporters.torch import Torch
from vaekit.errors import ExportError
from vaekit.export.trained import Trained

Make = Callable[..., Trained]


@pytest.mark.parametrize("part", ["decoder", "encoder", "autoencoder"])
def test_part_is_exported_and_equals_the_model(make: Make, part: str, tmp_path: Path) -> None:
    trained = make((1, 9, 7), encoder="cnn", decoder="cnn")
    exported = Torch(licence="MIT").export(trained, part, tmp_path / "part.pt2")  # type: ignore[arg-type]
    assert exported.parity.difference <= 1e-5
    assert exported.size == exported.path.stat().st_size
    files = {"vaekit": ""}
    function = torch.export.load(exported.path, extra_files=files).module()
    about = json.loads(files["vaekit"])
    assert (about["part"], about["licence"]) == (part, "MIT")
    shapes = {"decoder": (3,)}
    inputs = torch.rand(5, *shapes.get(part, (1, 9, 7)), generator=torch.Generator().manual_seed(0))
    vae = trained.vae
    expected = {"decoder": vae.decode, "encoder": vae.encode, "autoencoder": vae.reconstruct}[part](inputs)
    for given, other in zip(torch.atleast_1d(function(inputs)), torch.atleast_1d(expected), strict=True):
        torch.testing.assert_close(given, other)


def test_file_does_not_reveal_source_paths(make: Make, tmp_path: Path) -> None:
    exported = Torch().export(make(), "decoder", tmp_path / "decoder.pt2")
    with zipfile.ZipFile(exported.path) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert str(Path(__file__).parents[2]).encode() not in content


def test_decoder_that_branches_on_the_batch_size_is_refused(branching: Trained, tmp_path: Path) -> None:
    with pytest.raises(ExportError):
        Torch().export(branching, "decoder", tmp_path / "decoder.pt2")
    assert list(tmp_path.iterdir()) == []
