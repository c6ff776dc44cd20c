"""The statistical tests detect what they claim to detect, and reject nothing correct."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch import distributions as td

from vaekit.testing import ConformanceError
from vaekit.testing.statistics import (
    NUM_DRAWS,
    expect_draws,
    expect_independent,
    expect_joint_draws,
    expect_joint_mass,
    expect_mass,
    expect_mean,
    line_around,
)

F64 = torch.float64


def seeded(function: Callable[[], None], seeds: int) -> int:
    """Return the number of seeds for which a test passes."""
    passed = 0
    for seed in range(seeds):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            try:
                function()
            except ConformanceError:
                continue
        passed += 1
    return passed


def normal(z: Tensor) -> Tensor:
    return -0.5 * z.square() - 0.5 * math.log(2 * math.pi)


def gaussian_draws(scale: float = 1.0, shift: float = 0.0) -> None:
    draws = shift + scale * torch.randn(NUM_DRAWS, dtype=F64)
    expect_draws(draws, normal, line_around(draws), "draws")


def test_draws_of_a_density_are_never_refused() -> None:
    assert seeded(gaussian_draws, 40) == 40


def test_small_errors_of_scale_and_location_are_detected() -> None:
    assert seeded(lambda: gaussian_draws(scale=1.1), 20) == 0
    assert seeded(lambda: gaussian_draws(scale=1 / 1.1), 20) == 0
    assert seeded(lambda: gaussian_draws(shift=0.05), 20) == 0


def two_modes(z: Tensor) -> Tensor:
    return torch.stack([normal((z - centre) / 0.01) - math.log(0.01) for centre in (-5, 5)]).logsumexp(0) - math.log(2)


@pytest.mark.parametrize(
    ("draw", "log_density"),
    [
        (lambda: td.Cauchy(0.0, 1.0).sample((NUM_DRAWS,)).double(), lambda z: -(1 + z.square()).log() - math.log(math.pi)),
        (lambda: td.Laplace(3.0, 0.01).sample((NUM_DRAWS,)).double(), lambda z: -(z - 3).abs() / 0.01 - math.log(0.02)),
        (lambda: torch.rand(NUM_DRAWS, dtype=F64), lambda z: torch.where((z >= 0) & (z <= 1), 0.0, -math.inf)),
        (lambda: 0.01 * torch.randn(NUM_DRAWS, dtype=F64) + torch.where(torch.rand(NUM_DRAWS) < 0.5, -5, 5), two_modes),
    ],
    ids=["heavy tails", "a kink", "edges", "two narrow modes"],
)
def test_quadrature_is_right_for_densities_of_any_shape(
    draw: Callable[[], Tensor], log_density: Callable[[Tensor], Tensor]
) -> None:
    def check() -> None:
        draws = draw()
        expect_mass(log_density, line_around(draws), "the density")
        expect_draws(draws, log_density, line_around(draws), "draws")

    assert seeded(check, 5) == 5


def test_a_missing_constant_affects_the_mass_but_not_draws() -> None:
    draws = torch.randn(NUM_DRAWS, dtype=F64, generator=torch.Generator().manual_seed(0))
    expect_draws(draws, lambda z: normal(z) + 3, line_around(draws), "draws")
    with pytest.raises(ConformanceError, match="expected: 1\n  got:      20"):
        expect_mass(lambda z: normal(z) + 3, line_around(draws), "the density")


def test_constant_draws_are_refused() -> None:
    with pytest.raises(ConformanceError, match=r"half of them within -0\.67.* and 0\.67.*\n  got:      within 0 and 0"):
        expect_draws(torch.zeros(NUM_DRAWS, dtype=F64), normal, line_around(torch.zeros(9, dtype=F64)), "draws")


def ring(z: Tensor) -> Tensor:
    """Return the log density of a ring of radius 3: not a Gaussian, and empty at its mean."""
    radius = z.norm(dim=-1)
    return normal((radius - 3) / 0.2) - math.log(0.2) - radius.log() - math.log(2 * math.pi)


def ring_draws(scale: float = 1.0) -> Tensor:
    radius, angle = 3 + 0.2 * torch.randn(NUM_DRAWS, dtype=F64), 2 * math.pi * torch.rand(NUM_DRAWS, dtype=F64)
    return scale * torch.stack([radius * angle.cos(), radius * angle.sin()], 1)


def test_joint_draws_and_masses_of_any_shape_are_compared() -> None:
    assert seeded(lambda: expect_joint_draws(ring_draws(), ring, "draws"), 20) == 20
    assert seeded(lambda: expect_joint_mass(ring_draws(), ring, "the density"), 20) == 20
    assert seeded(lambda: expect_joint_draws(ring_draws(1.1), ring, "draws"), 10) == 0
    assert seeded(lambda: expect_joint_mass(ring_draws(), lambda z: ring(z) + 0.1, "the density"), 10) == 0


def test_non_gaussian_draws_with_correct_moments_are_detected() -> None:
    def check() -> None:
        z = ring_draws()
        law = td.MultivariateNormal(z.mean(0), torch.cov(z.T))
        expect_joint_draws(z, law.log_prob, "draws")

    assert seeded(check, 10) == 0


def test_too_uneven_weights_are_refused() -> None:
    with pytest.raises(ConformanceError, match="weights too uneven"):
        expect_joint_mass(ring_draws(30), ring, "the density")


def test_dependence_without_correlation_is_detected() -> None:
    def draw(dependent: bool) -> Tensor:
        uniforms = torch.rand(NUM_DRAWS, 2, dtype=F64)
        if dependent:  # far from the middle together, on either side
            uniforms[:, 1] = 0.5 + (uniforms[:, 0] - 0.5).abs() * torch.randn(NUM_DRAWS).sign()
        return uniforms

    assert seeded(lambda: expect_independent(draw(False), "columns"), 20) == 20
    assert seeded(lambda: expect_independent(draw(True), "columns"), 10) == 0


def test_a_mean_is_expected_within_its_error() -> None:
    values = torch.randn(NUM_DRAWS, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    expect_mean(values, 0.0, "the mean")
    with pytest.raises(ConformanceError, match=r"expected: 0\.05 ± 0\.02"):
        expect_mean(values, torch.tensor([0, 0, 0.05]), "the mean")
    with pytest.raises(ConformanceError, match="expected: finite values"):
        expect_mean(values / 0, 0.0, "the mean")
