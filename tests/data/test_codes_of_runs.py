"""The dataset of a run's codes: values, caching, and training a second model on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vaekit
from vaekit.data import Splits, TensorImages
from vaekit.data.arrays import MappedImages
from vaekit.errors import CheckpointError
from vaekit.roles import datasets


def codes_of(run: vaekit.Run, **options: Any) -> Splits:
    return datasets.build(datasets.spec("latents")(run=str(run.path), **options)).load()


def trained(folder: Path, **options: Any) -> vaekit.Run:
    rng = np.random.default_rng(0)
    np.savez(folder / "images.npz", images=rng.integers(0, 256, (80, 8, 6), dtype=np.uint8), labels=np.arange(80) % 3)
    given = {"dataset": "array", "dataset.path": str(folder / "images.npz"), "epochs": 1, "pictures": "none", "batch_size": 16}
    return vaekit.train(**given, **options, out=folder / "run")


@pytest.fixture
def run(tmp_path: Path) -> vaekit.Run:
    return trained(tmp_path, latent_dim=3, **{"encoder.hidden": (8,), "decoder.hidden": (8,)})


def images_of(run: vaekit.Run, split: str) -> torch.Tensor:
    source = run.splits.parts[split]
    return source.gather(torch.arange(len(source))).float() / 255


def test_codes_are_the_means_of_the_posteriors_with_the_labels_of_the_run(run: vaekit.Run) -> None:
    splits = codes_of(run)
    for name, part in splits.parts.items():
        assert isinstance(part, TensorImages)
        torch.testing.assert_close(part.images, run.vae().encode(images_of(run, name)).mean, atol=1e-6, rtol=1e-5)
        assert torch.equal(part.labels, run.splits.parts[name].labels)
        assert part.class_names == run.splits.parts[name].class_names


def test_draws_are_reproducible_and_spread_like_the_posteriors(run: vaekit.Run) -> None:
    one, other, means = codes_of(run, sample=True), codes_of(run, sample=True), codes_of(run)
    assert torch.equal(one.train.images, other.train.images)
    q = run.vae().encode(images_of(run, "train"))
    noise = (one.train.images - means.train.images) / torch.exp(0.5 * q.logvar)
    assert noise.mean().item() == pytest.approx(0, abs=0.3)
    assert noise.std().item() == pytest.approx(1, abs=0.2)
    files = sorted(path.name.split("-")[1] for path in (run.path / "latents").iterdir())
    assert files == ["mean"] * 3 + ["sample"] * 3


def test_codes_are_computed_once_per_weights(run: vaekit.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = codes_of(run).train.images
    with monkeypatch.context() as patch:
        patch.setattr(vaekit.VAE, "encode", lambda *_: pytest.fail("encoded again"))
        assert torch.equal(codes_of(run).train.images, before)
    again = vaekit.train(run.path / "spec.yaml", seed=1, out=run.path.with_name("again"))
    (run.path / "model.safetensors").write_bytes((again.path / "model.safetensors").read_bytes())
    assert not torch.allclose(codes_of(run).train.images, before)


def test_large_codes_are_mapped_with_their_labels(run: vaekit.Run) -> None:
    mapped, resident = codes_of(run, memory_gb=0.0), codes_of(run)
    assert isinstance(mapped.train, MappedImages)
    index = torch.tensor([5, 0, 2])
    assert torch.equal(mapped.train.gather(index), resident.train.gather(index))
    some = mapped.train.subset(index).complete("these")
    assert torch.equal(some.labels, resident.train.labels[index])
    assert some.class_names == resident.train.class_names


def test_grids_of_codes_train_a_second_model(tmp_path: Path) -> None:
    run = trained(tmp_path, encoder="cnn", latent_dim=2, latent_stride=2, **{"encoder.channels": (4,), "decoder.channels": (4,)})
    given = {"dataset": "latents", "dataset.run": str(run.path), "latent_dim": 2}
    second = vaekit.train(
        **given, encoder="mlp", epochs=1, batch_size=16, pictures="none", memory_gb=0.0, out=tmp_path / "second"
    )
    assert second.vae().data_shape == (2, 4, 3)
    codes = second.vae().sample(5, generator=torch.Generator().manual_seed(0))
    assert run.vae().decode(codes.flatten(1)).shape == (5, 1, 8, 6)


def test_a_folder_that_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a run folder"):
        datasets.build(datasets.spec("latents")(run=str(tmp_path))).load()
