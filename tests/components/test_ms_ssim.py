"""MS-SSIM against a direct computation with SciPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

import vaekit
from vaekit.components.losses.ms_ssim import MSSSIM, WEIGHTS
from vaekit.distributions import BernoulliPixels
from vaekit.errors import UsageError
from vaekit.trace import Trace

F64 = torch.float64


def images(*shape: int, noise: float = 0.2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return smooth images and noisy versions of them, ``(4, *shape)``."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.random((4, *shape)), (0, 0, 2, 2))
    x = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return torch.from_numpy(x), torch.from_numpy((x + noise * rng.standard_normal(x.shape)).clip(0, 1))


def direct(x: np.ndarray, y: np.ndarray, num: int) -> float:
    """Return the MS-SSIM of two images ``(C, H, W)`` from Gaussian filters of 11×11 pixels, where these lie inside the image."""

    def inner(image: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(image, (0, 1.5, 1.5), radius=(0, 5, 5))[:, 5:-5, 5:-5]

    value = 1.0
    weights = np.array(WEIGHTS[:num]) / sum(WEIGHTS[:num])
    for scale in range(num):
        mean_x, mean_y = inner(x), inner(y)
        var_x, var_y, cov = inner(x * x) - mean_x**2, inner(y * y) - mean_y**2, inner(x * y) - mean_x * mean_y
        structure = (2 * cov + 0.03**2) / (var_x + var_y + 0.03**2)
        luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
        value *= (structure * luminance if scale == num - 1 else structure).mean() ** weights[scale]
        height, width = (side // 2 * 2 for side in x.shape[1:])
        x, y = (each[:, :height, :width].reshape(len(each), height // 2, 2, width // 2, 2).mean((2, 4)) for each in (x, y))
    return float(value)


@pytest.mark.parametrize(("shape", "scales"), [((1, 11, 14), 1), ((1, 28, 28), 2), ((3, 45, 64), 3), ((1, 176, 176), 5)])
def test_the_similarity_matches_a_direct_computation(shape: tuple[int, ...], scales: int) -> None:
    x, y = images(*shape)
    loss = MSSSIM(shape).double()
    assert len(loss.exponents) == scales
    expected = [direct(one.numpy(), other.numpy(), scales) for one, other in zip(x, y, strict=True)]
    np.testing.assert_allclose(loss.similarity(x, y).numpy(), expected, rtol=1e-5)  # windows are float32 numbers
    assert min(expected) > 0.05
    assert max(expected) < 0.99


def trace_of(x: torch.Tensor, mean: torch.Tensor) -> Trace:
    return Trace(x, (), BernoulliPixels(torch.logit(mean)))


@pytest.mark.parametrize("shape", [(1, 28, 28), (2, 9, 7), (1, 4, 1), (1, 1, 1)])
def test_the_loss_is_0_for_equal_images_and_the_weight_scales_it(shape: tuple[int, ...]) -> None:
    x = 0.1 + 0.8 * torch.rand(3, *shape, dtype=F64)
    assert MSSSIM(shape).double()(trace_of(x, x)).abs().max() < 1e-9
    other = 1 - x
    ten, one = (MSSSIM(shape, weight=weight).double()(trace_of(x, other)) for weight in (10.0, 1.0))
    torch.testing.assert_close(ten, 10 * one)
    assert (one > 0).all()


def test_images_of_opposite_structure_have_finite_values_and_a_gradient_towards_the_image() -> None:
    x = torch.rand(3, 1, 28, 28)
    logits = torch.logit(1 - x).requires_grad_()
    loss = MSSSIM((1, 28, 28))
    value = loss(Trace(x, (), BernoulliPixels(logits)))
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0
    towards = -(gradient * (torch.logit(x.clamp(0.01, 0.99)) - logits.detach())).sum()
    assert towards > 0


def test_missing_pixels_count_as_reconstructed() -> None:
    x, mean = images(1, 28, 28)
    mean = mean.clamp(0.01, 0.99)
    holes = x.clone()
    holes[..., 5:9] = torch.nan
    filled = torch.where(holes.isnan(), mean, x)
    loss = MSSSIM((1, 28, 28)).double()
    torch.testing.assert_close(loss(trace_of(holes, mean)), loss(trace_of(filled, mean)))


def test_only_images_have_structure() -> None:
    with pytest.raises(UsageError, match="defined for images"):
        MSSSIM((7,))


def test_training_makes_digits_similar(tmp_path: Path) -> None:
    options: dict[str, Any] = {"loss": "ms_ssim", "latent_dim": 8, "device": "cpu", "threads": 1, "pictures": "none", "epochs": 2}
    options |= {"encoder.hidden": (64,), "decoder.hidden": (64,), "lr": 3e-3}
    run = vaekit.train(**options, out=tmp_path / "run")
    values = [record["validation_ms_ssim"] for record in run.metrics()]
    assert values[-1] < values[0] < 100
    assert values[-1] < 60
