"""The perceptual loss: its value, its gradients, and runs that use it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from small import random_weights
from torch.nn import functional as F

import vaekit
from vaekit import roles
from vaekit.components.losses.perceptual import Perceptual
from vaekit.distributions import BernoulliPixels, GaussianPixels
from vaekit.errors import DataError
from vaekit.nn.features import FeatureDistance, FeatureNetwork, sha256_of
from vaekit.report import write_report
from vaekit.trace import Trace

SHAPE = (3, 20, 18)


def loss_of(**options: Any) -> Perceptual:
    return Perceptual(SHAPE, weights=random_weights("squeezenet1_1"), network="squeezenet1_1", **options)


def vae_of(**options: Any) -> vaekit.VAE:
    torch.manual_seed(0)
    encoder = roles.encoders.get("mlp")(SHAPE, (2, 4), hidden=(8,))
    return vaekit.VAE(encoder, roles.decoders.get("mlp")((4,), SHAPE, hidden=(8,)), **options)


def images(num: int = 5) -> torch.Tensor:
    return torch.rand(num, *SHAPE, generator=torch.Generator().manual_seed(1))


def test_the_value_is_the_weight_times_the_distance_of_image_and_reconstruction() -> None:
    trace = vae_of()(images())
    distance = FeatureDistance(FeatureNetwork("squeezenet1_1", random_weights("squeezenet1_1"), SHAPE))
    expected = distance(images(), trace.reconstruction)
    torch.testing.assert_close(loss_of(weight=7.0)(trace), 7 * expected)
    assert expected.min() > 1e-3
    assert loss_of(weight=7.0)(Trace(images(), (), BernoulliPixels(torch.logit(images())))).max() < 1e-3


def test_a_weight_follows_its_schedule() -> None:
    trace = vae_of()(images(), epoch=torch.tensor(5.0))
    spec = roles.losses.spec("perceptual").model_validate(
        {"weights": random_weights("squeezenet1_1"), "network": "squeezenet1_1", "weight": "linear(0, 8, 20)"}
    )
    torch.testing.assert_close(roles.losses.build(spec, data_shape=SHAPE)(trace), loss_of(weight=2.0)(trace))


def test_pixels_are_rescaled_from_the_range_of_the_data_to_0_and_1() -> None:
    wide, unit = vae_of(value_range=(-1.0, 3.0)), vae_of()
    x, mean = images(), 1 - images()
    values = [
        loss_of()(Trace(low + width * x, (), GaussianPixels(low + width * mean, torch.zeros(()), 3), model=vae))
        for vae, low, width in ((wide, -1, 4), (unit, 0, 1))
    ]
    torch.testing.assert_close(*values)


def test_several_samples_are_averaged_in_the_distance() -> None:
    vae, noise = vae_of(), torch.randn(3, 5, 4)
    together = loss_of()(vae(images(), noise))
    alone = torch.stack([loss_of()(vae(images(), each)) for each in noise])
    assert alone.std(0).min() > 0
    torch.testing.assert_close(together, alone.mean(0))


def test_missing_pixels_count_as_reconstructed() -> None:
    vae = vae_of()
    vae.missing = True
    x, mean = images(), 1 - images()
    p = GaussianPixels(mean, torch.zeros(()), 3)
    holes = x.clone()
    holes[..., 5:9] = torch.nan
    filled = torch.where(holes.isnan(), mean, x)
    torch.testing.assert_close(loss_of()(Trace(holes, (), p, model=vae)), loss_of()(Trace(filled, (), p, model=vae)))


def test_gradients_reach_encoder_and_decoder_and_nothing_else() -> None:
    vae, loss = vae_of(), loss_of().train()
    before = {name: buffer.clone() for name, buffer in loss.named_buffers()}
    loss(vae(images())).sum().backward()
    gradients = [parameter.grad for parameter in (*vae.encoder.parameters(), *vae.decoder.parameters())]
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)
    assert not list(loss.parameters())
    assert all(torch.equal(buffer, before[name]) for name, buffer in loss.named_buffers())


def test_distances_are_in_single_precision_under_autocast() -> None:
    loss, trace = loss_of(weight=1.0), vae_of()(images())
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(trace)
        pairs = zip(*(loss.distance.network(each) for each in (images(), trace.reconstruction)), strict=True)
    assert found.dtype == torch.float32
    layers = []
    for one, other in pairs:
        assert one.dtype == torch.bfloat16
        layers.append(2 - 2 * F.cosine_similarity(one.double(), other.double(), dim=1, eps=1e-12).mean((-2, -1)))
    torch.testing.assert_close(found.double(), torch.stack(layers).mean(0), rtol=1e-5, atol=1e-6)


TRAINING: dict[str, Any] = {
    **{"epochs": 2, "batch_size": 16, "latent_dim": 2, "device": "cpu", "threads": 1, "pictures": "none"},
    **{"encoder.hidden": (8,), "decoder.hidden": (8,), "dataset": "array", "likelihood": "mse"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> vaekit.Run:
    """A run whose weights file is in the parent folder."""
    folder = tmp_path_factory.mktemp("perceptual")
    pixels = np.random.default_rng(0).integers(0, 256, (80, 8, 6), dtype=np.uint8)
    np.save(folder / "images.npy", pixels)
    weights = Path(shutil.copy(random_weights(), folder / "weights.safetensors"))
    options = {"loss": "perceptual", "perceptual.weights": str(weights), "dataset.path": str(folder / "images.npy")}
    return vaekit.train(**TRAINING, **options, out=folder / "run")


@pytest.fixture
def elsewhere(run: vaekit.Run) -> Any:
    """The run while its weights file is missing."""
    file = run.path.parent / "weights.safetensors"
    file.rename(file.with_suffix(".away"))
    yield run
    file.with_suffix(".away").replace(file)


def test_training_lowers_the_distance_and_saves_no_weights_of_the_network(run: vaekit.Run) -> None:
    values = [record["validation_perceptual"] for record in run.metrics()]
    assert values[-1] < values[0]
    for file in run.path.rglob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            assert not [name for name in opened.keys() if "distance" in name]  # noqa: SIM118
        assert file.stat().st_size < 200_000


def test_the_digest_of_the_file_is_part_of_the_spec(run: vaekit.Run) -> None:
    (loss, _) = run.spec.model.loss
    assert dict(loss)["sha256"] == sha256_of(random_weights())
    assert dict(loss)["linear_sha256"] is None


def test_a_run_is_not_repeated_with_another_file(elsewhere: vaekit.Run, tmp_path: Path) -> None:
    file = elsewhere.path.parent / "weights.safetensors"
    shutil.copy(random_weights(seed=1), file)
    with pytest.raises(DataError, match="not the expected file of weights of efficientnet_lite0"):
        vaekit.train(elsewhere.folder.spec, out=tmp_path / "again")
    assert not (tmp_path / "again").exists()
    with pytest.raises(DataError, match="not the expected file of weights of efficientnet_lite0"):
        elsewhere.evaluate()


def test_a_run_without_the_file_is_usable_but_not_evaluated(elsewhere: vaekit.Run) -> None:
    assert vaekit.load(elsewhere.path).sample(2).shape == (2, 1, 8, 6)
    assert elsewhere.sample(4).is_file()
    assert "reconstruction + perceptual + kl" in write_report(elsewhere).read_text("utf-8")
    with pytest.raises(DataError, match=r"does not exist[\s\S]*weights.safetensors"):
        elsewhere.evaluate()


def test_models_that_differ_in_numeric_options_are_stacked(run: vaekit.Run, tmp_path: Path) -> None:
    over = {"perceptual.weight": (1.0, 50.0)}
    runs = vaekit.sweep(run.folder.spec, over=over, stack="on", out=tmp_path / "sweep", epochs=1)
    for weight, stacked in zip(over["perceptual.weight"], runs, strict=True):
        alone = vaekit.train(run.folder.spec, epochs=1, **{"perceptual.weight": weight}, out=tmp_path / f"alone-{weight}")
        for one, other in zip(stacked.vae().parameters(), alone.vae().parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
