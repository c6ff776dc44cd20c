"""The factors that standardise codes for models trained on them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import vaekit
from vaekit.export.trained import Latent, Scaling, Trained

Make = Callable[..., Trained]


def test_total_variance_is_that_within_and_between_latents() -> None:
    codes = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    codes = codes * torch.tensor([0.1, 1.0, 2.0]) + torch.tensor([-3.0, 0.0, 5.0])
    latents = [
        Latent(mean, std, None) for mean, std in zip(codes.mean(0).tolist(), codes.std(0, correction=0).tolist(), strict=True)
    ]
    shift, scale = Scaling.of(latents)
    assert shift == pytest.approx(codes.mean().item())
    assert scale == pytest.approx(1 / codes.std(correction=0).item())
    assert Scaling.of([Latent(2.0, 0.0, None)] * 3) == (2.0, 1.0)  # constant codes have no scale


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> vaekit.Run:
    """A model of 16×16 images of varying brightness, with a grid of 4×4 latents with two channels."""
    folder, rng = tmp_path_factory.mktemp("grid"), np.random.default_rng(0)
    images = (rng.random((2000, 4, 4)).repeat(4, 1).repeat(4, 2) * 255 * rng.random((2000, 1, 1))).astype(np.uint8)
    np.save(folder / "images.npy", images)
    networks = {"encoder": "cnn", "decoder": "cnn", "encoder.channels": (8, 16), "decoder.channels": (16, 8)}
    data = {"dataset": "array", "dataset.path": str(folder / "images.npy"), "likelihood": "gaussian"}
    fixed = {"latent_dim": 2, "latent_stride": 4, "batch_size": 64, "epochs": 3, "loss": "beta", "beta": 0.01}
    settings: dict[str, Any] = {**networks, **data, **fixed, "device": "cpu", "pictures": "none"}
    return vaekit.train(**settings, out=folder / "run")


def test_standardised_codes_have_mean_0_and_standard_deviation_1(run: vaekit.Run) -> None:
    trained, test = run.trained(), run.splits.test
    x = test.gather(torch.arange(len(test))) / 255
    with torch.no_grad():
        z = trained.vae.encode_to_latent(x, generator=torch.Generator().manual_seed(1)).unflatten(1, (2, 4, 4))
    shift, scale = trained.scaling
    error = 4 / math.sqrt(z.numel())  # the images are those of the evaluation, so that only the noise differs
    assert abs(z.std().item() - 1) > error  # something to do
    assert ((z - shift) * scale).mean().abs() < error
    assert (((z - shift) * scale).std() - 1).abs() < error
    assert trained.channel_scalings is not None
    for channel, (shift, scale) in zip(z.unbind(1), trained.channel_scalings, strict=True):
        scaled = (channel - shift) * scale
        assert scaled.mean().abs() < math.sqrt(2) * error
        assert (scaled.std() - 1).abs() < math.sqrt(2) * error
    assert trained.channel_scalings[0] != trained.channel_scalings[1]


def test_exports_state_the_factors(run: vaekit.Run, tmp_path: Path) -> None:
    for part in ("decoder", "encoder"):
        run.export("onnx", part=part, out=tmp_path / f"{part}.onnx")
        about = json.loads((tmp_path / f"{part}.json").read_text())
        [entry] = onnx.load(tmp_path / f"{part}.onnx").metadata_props
        assert json.loads(entry.value) == about
        scaling, channels = run.trained().scaling, run.trained().channel_scalings
        assert channels is not None
        assert (about["shift_factor"], about["scaling_factor"]) == scaling
        assert [(each["shift_factor"], each["scaling_factor"]) for each in about["channels"]] == list(channels)


def test_a_vector_has_no_channels(make: Make) -> None:
    assert make().channel_scalings is None
