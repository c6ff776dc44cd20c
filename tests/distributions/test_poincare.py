"""The wrapped normal on the Poincaré ball: maps, volume and samples, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.func import jacrev, vmap

from vaekit.distributions import StandardNormal
from vaekit.distributions.poincare import WrappedNormal, _asinhc, _log_sinhc, _tanhc, exp_map, inside, log_map, move, squared
from vaekit.testing.statistics import expect_mean

F64 = torch.float64
CURVATURES = (0.3, 1.0, 4.0)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def curvature(c: float, dtype: torch.dtype = F64) -> Tensor:
    return torch.tensor(c, dtype=dtype)


def points(num: int, dim: int, c: Tensor, *, distance: float = 1.0, seed: int = 0) -> Tensor:
    zero = torch.zeros(num, dim, dtype=c.dtype)
    return exp_map(zero, distance * random(num, dim, seed=seed).to(c.dtype), c)


def distance(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """Return the distance by the textbook formula with arcosh."""
    ratio = squared(x - y) / ((1 - c * squared(x)) * (1 - c * squared(y)))
    return (torch.acosh(1 + 2 * c * ratio) / torch.sqrt(c)).squeeze(-1)


@pytest.mark.parametrize("c", CURVATURES)
def test_addition_is_moebius(c: float) -> None:
    k = curvature(c)
    x, y = points(9, 3, k), points(9, 3, k, seed=1)
    xy, xx, yy = (x * y).sum(-1, keepdim=True), squared(x), squared(y)
    expected = ((1 + 2 * c * xy + c * yy) * x + (1 - c * xx) * y) / (1 + 2 * c * xy + c**2 * xx * yy)
    torch.testing.assert_close(move(x, y, k), expected)


@pytest.mark.parametrize("c", CURVATURES)
def test_the_maps_are_inverse_and_preserve_lengths(c: float) -> None:
    k = curvature(c)
    mu, v = points(50, 3, k), 2 * random(50, 3, seed=1)
    z = exp_map(mu, v, k)
    assert (k * squared(z) < 1).all()
    torch.testing.assert_close(log_map(mu, z, k), v)
    torch.testing.assert_close(distance(mu, z, k), v.norm(dim=-1))
    torch.testing.assert_close(log_map(mu, mu, k), torch.zeros_like(v))
    torch.testing.assert_close(exp_map(mu, torch.zeros_like(v), k), mu)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_the_density_matches_a_change_of_variables(c: float, dim: int) -> None:
    """By volume in hyperbolic space, ``(2 / (1 - c |z|^2))^D`` times that in the ball, whose change autograd's Jacobian gives."""
    k = curvature(c)
    q = WrappedNormal(points(8, dim, k), 0.3 * random(8, dim, seed=1), k)
    noise = random(8, dim, seed=2)
    z = q.rsample(noise)
    jacobian = vmap(jacrev(lambda n, mu, s: exp_map(mu, torch.exp(s) * n, k)))(noise, q.mu, q.log_std)
    volume = dim * torch.log(2 / (1 - k * squared(z))).squeeze(-1)
    expected = StandardNormal(noise[0]).log_prob(noise) - torch.linalg.slogdet(jacobian).logabsdet - volume
    torch.testing.assert_close(q.log_prob(z), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("c", CURVATURES)
def test_the_density_integrates_to_one_over_the_disc(c: float) -> None:
    """In polar coordinates around 0, where the area is ``sinh(sqrt(c) r) / sqrt(c) dr dphi``."""
    k = curvature(c)
    q = WrappedNormal(points(1, 2, k, distance=0.7), torch.tensor([[-0.4, 0.3]], dtype=F64), k)
    r, phi = torch.linspace(0, 12, 1201, dtype=F64), torch.linspace(0, 2 * math.pi, 257, dtype=F64)[:-1]
    direction = torch.stack([torch.cos(phi), torch.sin(phi)], -1)
    z = exp_map(torch.zeros(2, dtype=F64), r[:, None, None] * direction, k).flatten(0, 1)
    area = (torch.sinh(c**0.5 * r) / c**0.5)[:, None].expand(-1, 256).flatten()
    mass = (q.log_prob(z[:, None])[:, 0].exp() * area).sum() * (r[1] - r[0]) * (2 * math.pi / 256)
    assert mass.item() == pytest.approx(1, abs=1e-4)  # the step of r


@pytest.mark.parametrize("dim", [2, 8])
def test_two_densities_agree_on_the_mass_of_the_space(dim: int) -> None:
    """The mean of q / p over samples from p is 1; the weights are bounded, since p is wider."""
    k, mu, zero = curvature(1.0), points(1, dim, curvature(1.0), distance=0.3), torch.zeros(dim, dtype=F64)
    q, p = WrappedNormal(mu, torch.full((1, dim), -0.3, dtype=F64), k), WrappedNormal(zero, zero, k)
    z = p.rsample(random(20_000, 1, dim))
    expect_mean(torch.exp(q.log_prob(z) - p.log_prob(z)), 1.0, "q / p over draws of p")
    z = q.rsample(random(20_000, 1, dim, seed=1))
    expect_mean(log_map(mu, z[:, 0], k), zero, "draws seen from the centre")
    assert (q.log_prob(z) - p.log_prob(z)).mean() > 0


def test_a_flat_space_is_euclidean_with_points_of_half_the_length() -> None:
    k = curvature(1e-9)
    q = WrappedNormal(0.5 * random(6, 3), 0.2 * random(6, 3, seed=1), k)
    noise = random(4, 6, 3, seed=2)
    z = q.rsample(noise)
    torch.testing.assert_close(2 * z, 2 * q.mu + torch.exp(q.log_std) * noise, rtol=1e-6, atol=1e-6)
    normal = StandardNormal(noise[0, 0]).log_prob(noise) - q.log_std.sum(-1)
    torch.testing.assert_close(q.log_prob(z), normal, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("function", [_tanhc, _asinhc, _log_sinhc])
def test_series_match_the_functions_that_they_replace(function) -> None:
    exact = {
        _tanhc: lambda x: torch.tanh(x) / x,
        _asinhc: lambda x: torch.asinh(x) / x,
        _log_sinhc: lambda x: torch.log(torch.sinh(x) / x),
    }[function]
    x = torch.cat([torch.logspace(-2, 2, 200, dtype=F64), torch.tensor([0.0999, 0.1001], dtype=F64)])
    torch.testing.assert_close(function(x.square()), exact(x), rtol=1e-10, atol=1e-12)
    square = torch.zeros(3, dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(function(square).sum(), square)
    torch.testing.assert_close(slope, torch.full_like(square, {_tanhc: -1 / 3, _asinhc: -1 / 6, _log_sinhc: 1 / 6}[function]))


@pytest.mark.parametrize("away", [1.0, 4.0, 6.0, 8.0])
def test_float32_is_accurate_far_from_the_centre(away: float) -> None:
    """A number near 1 is off by 6e-8, so the distance of a point at r is off by about ``6e-8 exp(r) / 4``, times a margin of 64.

    The density is compared at one point of the ball, rounded to float32.
    """
    k = curvature(1.0)
    mu = points(40, 3, k, distance=1.0)
    mu = exp_map(torch.zeros_like(mu), away * mu / mu.norm(dim=-1, keepdim=True), k).float()
    q = WrappedNormal(mu, torch.full((40, 3), -1.0), k.float())
    z = q.rsample(random(40, 3, seed=1).float())
    exact = WrappedNormal(mu.double(), q.log_std.double(), k).log_prob(z.double())
    torch.testing.assert_close(q.log_prob(z).double(), exact, rtol=1e-5, atol=max(1e-4, 16 * 6e-8 * math.exp(away)))


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("c", CURVATURES)
def test_results_are_finite_at_the_boundary_and_beyond(c: float, dtype: torch.dtype) -> None:
    k = curvature(c, dtype)
    far = torch.tensor([[1e-30, 0.0], [0.5, 0.1], [40.0, -3.0], [1e4, 1e4]], dtype=dtype)
    v = far.clone().requires_grad_()
    mu = points(4, 2, k, distance=3.0)
    z = exp_map(mu, v, k)
    assert (k * squared(z) < 1).all()
    q = WrappedNormal(mu, torch.zeros(4, 2, dtype=dtype), k)
    for value in (z.sum(), q.log_prob(z).sum(), q.log_prob(v).sum(), log_map(z, mu, k).sum()):
        assert value.isfinite()
        (gradient,) = torch.autograd.grad(value, v, retain_graph=True)
        assert gradient.isfinite().all()
    torch.testing.assert_close(inside(z, k), z)


@pytest.mark.parametrize("c", CURVATURES)
def test_geodesics_have_constant_speed_and_stay_inside(c: float) -> None:
    k = curvature(c)
    a, b = points(2, 3, k, distance=2.0)
    p = WrappedNormal(torch.zeros(3, dtype=F64), torch.zeros(3, dtype=F64), k)
    path = p.geodesic(a, b, torch.linspace(0, 1, 6, dtype=F64))
    torch.testing.assert_close(path[[0, -1]], torch.stack([a, b]))
    torch.testing.assert_close(distance(path[1:], path[:-1], k), (distance(a, b, k) / 5).expand(5))
    beyond = p.project(torch.tensor([[3.0, 0.0, 4.0], [0.01, 0.0, 0.0]], dtype=F64))
    assert (k * squared(beyond) < 1).all()
    torch.testing.assert_close(beyond[0] / beyond[0].norm(), torch.tensor([0.6, 0.0, 0.8], dtype=F64))
    assert beyond[1].tolist() == [0.01, 0.0, 0.0]
