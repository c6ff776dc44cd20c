"""Distances between sets of feature vectors: closed forms, and estimates without bias."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from vaekit.evaluation.distances import MOST_OF_KERNEL, Statistics, frechet_distance, kernel_distance, statistics_of

F64 = torch.float64


def gaussian(mean: torch.Tensor, covariance: torch.Tensor) -> Statistics:
    return Statistics(mean, covariance, torch.empty(0, len(mean), dtype=F64))


def drawn(num: int, seed: int, width: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(99), dtype=F64)
    return torch.randn(num, width, generator=generator, dtype=F64) @ mixing


def test_the_frechet_distance_of_gaussians_with_common_axes_is_that_of_means_and_deviations() -> None:
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=F64)).Q
    means, deviations = torch.randn(2, 5, generator=generator, dtype=F64), torch.rand(2, 5, generator=generator, dtype=F64)
    one, other = (gaussian(mean, (axes * s.square()) @ axes.T) for mean, s in zip(means, deviations, strict=True))
    expected = (means[0] - means[1]).square().sum() + (deviations[0] - deviations[1]).square().sum()
    assert frechet_distance(one, other) == pytest.approx(expected.item(), rel=1e-10)


def test_the_frechet_distance_of_other_gaussians_is_that_of_a_matrix_square_root() -> None:
    one, other = statistics_of(drawn(200, 0)), statistics_of(drawn(100, 1) @ torch.diag(torch.arange(1, 7).double()))
    root = sqrtm(one.covariance.numpy() @ other.covariance.numpy()).real
    traces = one.covariance.trace() + other.covariance.trace() - 2 * np.trace(root)
    expected = (one.mean - other.mean).square().sum() + traces
    assert frechet_distance(one, other) == pytest.approx(expected.item(), rel=1e-8)
    assert frechet_distance(other, one) == pytest.approx(expected.item(), rel=1e-8)


@pytest.mark.parametrize("num", [4, 200])
def test_a_set_has_distance_0_to_itself_even_if_its_covariance_is_singular(num: int) -> None:
    one = statistics_of(drawn(num, 0))
    assert frechet_distance(one, one) < 1e-5 * one.covariance.trace()


def test_statistics_are_those_of_numpy_in_double_precision_and_the_sample_is_spread() -> None:
    features = torch.arange(3.0 * (MOST_OF_KERNEL + 1)).reshape(-1, 3)
    found = statistics_of(features)
    np.testing.assert_allclose(found.covariance, np.cov(features.double().numpy().T))
    assert found.covariance.dtype == found.mean.dtype == F64
    assert found.sample.shape == (MOST_OF_KERNEL, 3)
    assert torch.equal(found.sample[[0, -1]], features[[0, -1]].double())


def test_the_kernel_distance_averages_over_all_pairs() -> None:
    x, y = drawn(5, 0), drawn(4, 1)

    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a @ b / 6 + 1) ** 3)

    within = [sum(kernel(a[i], a[j]) for i in range(len(a)) for j in range(len(a)) if i != j) for a in (x, y)]
    between = sum(kernel(a, b) for a in x for b in y)
    expected = within[0] / 20 + within[1] / 12 - 2 * between / 20
    assert kernel_distance(statistics_of(x), statistics_of(y)) == pytest.approx(expected, rel=1e-10)


def test_the_kernel_distance_is_estimated_without_bias() -> None:
    pairs = [(statistics_of(drawn(20, 2 * i)), statistics_of(drawn(20, 2 * i + 1))) for i in range(400)]
    values = torch.tensor([kernel_distance(*pair) for pair in pairs])
    assert abs(values.mean()) < 4 * values.std() / 20
    assert values.min() < 0 < values.max()
    apart = torch.tensor([kernel_distance(statistics_of(drawn(20, i)), statistics_of(1 + drawn(20, i + 999))) for i in range(50)])
    assert apart.mean() > 4 * apart.std() / 50**0.5
