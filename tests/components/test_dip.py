"""The covariance penalty of DIP-VAE."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vaekit.components.losses.dip import DIP, covariance
from vaekit.distributions import BernoulliPixels, DiagonalGaussian, StandardNormal
from vaekit.specs.resolve import resolve
from vaekit.trace import Site, Trace

F64 = torch.float64


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def trace(mu: Tensor, *samples: int) -> Trace:
    q = DiagonalGaussian(mu, random(*mu.shape, seed=1))
    site = Site(q.rsample(random(*samples, *mu.shape, seed=2)), q, StandardNormal(torch.zeros_like(mu[0])))
    x = torch.zeros(len(mu), 1, 2, 2, dtype=F64)
    return Trace(x, (site,), BernoulliPixels(x))


def penalty(codes: Tensor, lambda_od: float, lambda_d: float) -> float:
    """Return the penalty on NumPy's covariance."""
    total = np.cov(codes.numpy(), rowvar=False, ddof=0)
    variances = np.diag(total)
    return lambda_od * ((total - np.diag(variances)) ** 2).sum() + lambda_d * ((variances - 1) ** 2).sum()


@pytest.mark.parametrize("samples", [(), (3,)])
def test_the_penalty_matches_numpys_covariance(samples: tuple[int, ...]) -> None:
    given, weights = trace(random(9, 4), *samples), {"lambda_od": 3.0, "lambda_d": 7.0}
    of_means, of_codes = (DIP(variant=variant, **weights).double()(given).item() for variant in ("i", "ii"))
    assert of_means == pytest.approx(penalty(given.site.q.mean, **weights), rel=1e-12)
    assert of_codes == pytest.approx(penalty(given.z.flatten(0, -2), **weights), rel=1e-12)
    assert of_means != pytest.approx(of_codes, rel=0.01)


def test_uncorrelated_means_of_unit_variance_are_not_penalised() -> None:
    mu = random(50, 4)
    white = (mu - mu.mean(0)) @ torch.linalg.cholesky(torch.linalg.inv(covariance(mu)))
    assert DIP().double()(trace(white + 5)).item() == pytest.approx(0, abs=1e-20)
    assert DIP().double()(trace(2 * white)).item() == pytest.approx(100 * 4 * 9)


def test_the_covariance_of_codes_is_that_of_means_and_the_mean_of_variances() -> None:
    """The law of total covariance, on which the paper's second variant is based."""
    given = trace(random(20, 3), 50_000)
    q: Any = given.site.q
    expected = covariance(q.mean) + q.logvar.exp().mean(0).diag()
    torch.testing.assert_close(covariance(given.z.flatten(0, -2)), expected, rtol=0, atol=0.01)


def test_both_sums_are_logged_without_their_weights() -> None:
    given = trace(random(9, 4))
    total = DIP(lambda_od=2.0, lambda_d=5.0).double()(given)
    torch.testing.assert_close(total, 2 * given.metrics["off_diagonal"] + 5 * given.metrics["diagonal"])
    own = DIP(lambda_od=1.0, lambda_d=0.0).double()(replace(given, metrics={}))
    torch.testing.assert_close(given.metrics["off_diagonal"], own)


def test_the_covariance_of_one_code_is_zero() -> None:
    assert torch.equal(covariance(random(1, 3)), torch.zeros(3, 3, dtype=F64))


@pytest.mark.parametrize(("losses", "expected"), [(["dip"], ["dip", "kl"]), (["dip", "beta"], ["dip", "beta"])])
def test_dip_is_added_to_a_divergence(losses: list[str], expected: list[str]) -> None:
    assert [loss.kind for loss in resolve({"model": {"loss": losses}}).model.loss] == expected
