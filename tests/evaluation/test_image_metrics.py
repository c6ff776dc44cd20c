"""PSNR, SSIM, and comparisons in features, in the evaluation of runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import ndimage
from small import random_weights
from torch.nn import functional as F

import vaekit
from vaekit.cli import main
from vaekit.errors import UsageError
from vaekit.evaluation.distances import frechet_distance, kernel_distance, statistics_of
from vaekit.evaluation.features import FeatureRequest
from vaekit.evaluation.tables import not_comparable
from vaekit.nn.features import FeatureDistance, FeatureNetwork, sha256_of
from vaekit.nn.ssim import ssim
from vaekit.streams import Streams

SIDE = 9
"""The image size in the feature network, small for speed."""


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vaekit" / "features"


@pytest.fixture
def run(labelled_run: Path, tmp_path: Path) -> vaekit.Run:
    return vaekit.Run(shutil.copytree(labelled_run, tmp_path / "run"))


def request(**options: Any) -> FeatureRequest:
    return FeatureRequest("efficientnet_lite0", random_weights(), size=SIDE, **options)


def pixels_of(run: vaekit.Run) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the test images and their reconstructions."""
    images = run.splits.test.gather(torch.arange(len(run.splits.test))) / 255
    return images, run.vae().reconstruct(images)


def network(weights: str | None = None) -> FeatureNetwork:
    return FeatureNetwork("efficientnet_lite0", weights or random_weights(), (1, 8, 6))


def vectors(images: torch.Tensor) -> torch.Tensor:
    return network().pooled(F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True))


def test_psnr_and_ssim_average_over_deterministic_reconstructions(run: vaekit.Run) -> None:
    images, means = (each.double().numpy() for each in pixels_of(run))
    psnr = -10 * np.log10(((images - means) ** 2).mean((1, 2, 3)))

    def blurred(x: np.ndarray) -> np.ndarray:  # the largest window that fits has 5 pixels
        return ndimage.gaussian_filter(x, (0, 0, 1.5, 1.5), radius=(0, 0, 2, 2))[..., 2:-2, 2:-2]

    mean_x, mean_y = blurred(images), blurred(means)
    var_x, var_y = blurred(images**2) - mean_x**2, blurred(means**2) - mean_y**2
    cov = blurred(images * means) - mean_x * mean_y
    similar = (2 * mean_x * mean_y + 1e-4) * (2 * cov + 9e-4) / ((mean_x**2 + mean_y**2 + 1e-4) * (var_x + var_y + 9e-4))
    found = run.evaluate()
    assert found["psnr"] == pytest.approx(psnr.mean(), rel=1e-5)
    assert found["ssim"] == pytest.approx(similar.mean(), rel=1e-3)
    assert {"validation_psnr", "validation_ssim"} <= run.metrics()[-1].keys()


def test_the_similarity_of_an_image_with_itself_is_1_and_with_its_negative_less() -> None:
    x = torch.rand(3, 2, 30, 14, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ssim(x, x), torch.ones(3))
    assert ssim(x, 1 - x).max() < 0


TINY: dict[str, Any] = {
    **{"encoder.hidden": (8,), "decoder.hidden": (8,), "latent_dim": 2, "epochs": 1, "batch_size": 16, "threads": 1},
    **{"device": "cpu", "pictures": "none", "dataset": "array"},
}


@pytest.mark.parametrize("case", ["binarised", "binary", "signals", "wide", "missing"])
def test_image_metrics_need_grey_or_rgb_images(case: str, tmp_path: Path) -> None:
    rng, options = np.random.default_rng(0), dict(TINY)
    data = rng.random((60, 8, 6), dtype=np.float32)
    options["likelihood"] = "mse"
    if case == "binarised":
        options |= {"binarize": "dynamic", "likelihood": "bce"}
    elif case == "binary":
        data = data.round()
    elif case == "signals":
        data, options["dataset.layout"] = data.reshape(60, 2, 24), "NCL"
    elif case == "wide":
        data, options["likelihood.link"] = 3 * data - 1, "identity"
        options["likelihood"] = "gaussian"
    else:
        data[:, 3, 2] = np.nan
        options["missing"] = "zeros"
    np.save(tmp_path / "data.npy", data)
    run = vaekit.train(**options, **{"dataset.path": str(tmp_path / "data.npy")}, out=tmp_path / "run")
    assert not {"psnr", "ssim"} & run.evaluation().keys()


def test_equal_images_have_the_highest_psnr_that_is_a_number(run: vaekit.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vaekit.Trace, "reconstruction_of_means", property(lambda trace: trace.x))
    assert run.evaluate()["psnr"] == pytest.approx(100)


def test_image_metrics_match_a_direct_computation(run: vaekit.Run) -> None:
    images, means = pixels_of(run)
    found = run.evaluate(features=request())
    real, rebuilt = statistics_of(vectors(images)), statistics_of(vectors(means))
    assert found["feature_distance"] == pytest.approx(FeatureDistance(network())(images, means).mean().item(), rel=1e-4)
    assert found["rfid"] == pytest.approx(frechet_distance(real, rebuilt), rel=1e-3)
    drawn = run.vae().sample(len(images), generator=Streams(run.spec.train.seed).generator("features/samples"))
    samples = statistics_of(vectors(drawn))
    assert found["fid"] == pytest.approx(frechet_distance(real, samples), rel=1e-3)
    assert found["kid"] == pytest.approx(kernel_distance(real, samples), rel=1e-3)
    assert "lpips" not in found
    protocol = {"network": "efficientnet_lite0", "sha256": sha256_of(random_weights()), "size": SIDE, "linear_sha256": None}
    assert found["features"] == protocol | {"num_images": len(images), "num_samples": len(images)}
    assert json.loads(run.folder.evaluation.read_text()) == found
    assert run.evaluate(features=request()) == found
    assert run.evaluate()["fid"] == found["fid"]  # it stays


@pytest.fixture
def pooled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of images whose features are computed."""
    found: list[int] = []
    real = FeatureNetwork.pooled

    def counted(self: FeatureNetwork, images: torch.Tensor) -> torch.Tensor:
        found.append(len(images))
        return real(self, images)

    monkeypatch.setattr(FeatureNetwork, "pooled", counted)
    return found


def test_features_of_images_are_cached_for_models_of_the_same_data(run: vaekit.Run, pooled: list[int], cache: Path) -> None:
    num = len(run.splits.test)
    first = run.evaluate(features=request())
    assert sum(pooled) == 3 * num
    (file,) = cache.iterdir()
    pooled.clear()
    assert run.evaluate(features=request()) == first
    assert sum(pooled) == 2 * num
    for other in (
        {"features": request(), "split": "validation"},
        {"features": FeatureRequest("efficientnet_lite0", random_weights(seed=1), size=SIDE)},
    ):
        pooled.clear()
        run.evaluate(**other)
        assert sum(pooled) == 3 * num
    assert len(list(cache.iterdir())) == 3
    pooled.clear()
    file.write_bytes(file.read_bytes()[:100])
    assert run.evaluate(features=request()) == first
    assert sum(pooled) == 3 * num


def test_a_cache_that_cannot_be_written_is_a_warning(run: vaekit.Run, cache: Path) -> None:
    cache.parent.parent.mkdir()
    cache.parent.write_text("a file in place of the folder")
    with pytest.warns(UserWarning, match="features of the images could not be cached"):
        assert run.evaluate(features=request())["fid"] > 0


def test_with_linear_weights_the_distance_is_called_lpips(run: vaekit.Run, tmp_path: Path) -> None:
    widths = [features.shape[1] for features in network()(torch.zeros(1, 1, 8, 6))]
    save_file(
        {f"lin{i}.model.1.weight": torch.ones(1, width, 1, 1) for i, width in enumerate(widths)}, tmp_path / "linear.safetensors"
    )
    plain = run.evaluate(features=request(num_samples=7))
    found = run.evaluate(features=request(linear=tmp_path / "linear.safetensors"))
    assert found["lpips"] == pytest.approx(len(widths) * plain["feature_distance"], rel=1e-5)
    assert "feature_distance" not in found
    assert plain["features"]["num_samples"] == 7
    assert found["features"]["linear_sha256"] == sha256_of(tmp_path / "linear.safetensors")
    assert "feature network, or its protocol" in str(not_comparable({"one": plain, "other": found}))
    without = {key: value for key, value in plain.items() if key != "features"}
    assert not_comparable({"one": without, "other": found}) is None


def test_samples_of_a_conditional_model_cycle_through_the_classes(tmp_path: Path, labelled_run: Path) -> None:
    file = labelled_run.parent / "images.npz"
    run = vaekit.train(**TINY, **{"dataset.path": str(file), "likelihood": "mse", "condition": "label"}, out=tmp_path / "run")
    found = run.evaluate(features=request(num_samples=66))
    streams, labels = Streams(run.spec.train.seed), torch.arange(66) % 3
    parts = [(0, labels[:64]), (64, labels[64:])]
    drawn = torch.cat(
        [run.vae().sample(len(y), y=y, generator=streams.generator("features/samples", start)) for start, y in parts]
    )
    images = run.splits.test.gather(torch.arange(len(run.splits.test))) / 255
    expected = kernel_distance(statistics_of(vectors(images)), statistics_of(vectors(drawn)))
    assert found["kid"] == pytest.approx(expected, rel=1e-6)


def test_the_command_names_the_features(run: vaekit.Run, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--features",
        "efficientnet_lite0",
        "--features-weights",
        random_weights(),
        "--features-size",
        "9",
        "--num-samples",
        "5",
    ]
    assert main(["evaluate", str(run.path), *flags]) == 0
    out = capsys.readouterr().out
    assert f"`features`: efficientnet_lite0 ({sha256_of(random_weights())[:8]}…), 9×9, 24 images, 5 samples" in out
    assert "FID" in out
    assert "in `features`\n" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--features", "vgg16"], "needs a network and its weights"),
        (["--features-weights", "weights.pth"], "needs a network and its weights"),
        (["--features-size", "64"], "needs a network and its weights"),
        (["--features", "resnet", "--features-weights", "weights.pth"], "unknown feature network"),
        (["--features", "vgg16", "--features-weights", "weights.pth"], "does not support these data"),
        (["--features", "efficientnet_lite0", "--features-weights", "weights.pth"], "does not exist"),
    ],
)
def test_an_impossible_request_is_refused(
    run: vaekit.Run, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run.path), *flags]) in {1, 2}
    assert message in capsys.readouterr().err


def test_unsupported_sizes_and_single_samples_are_refused(run: vaekit.Run) -> None:
    with pytest.raises(UsageError, match="two samples or more"):
        request(num_samples=1)
    with pytest.raises(UsageError, match="resized to no pixels"):
        FeatureRequest("vgg16", "vgg16.pth", size=0)
