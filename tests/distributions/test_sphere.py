"""Densities on spheres: Bessel functions, quantiles, samples and divergences, compared with SciPy and quadrature, in float64."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor

from vaekit.distributions import kl_per_dim
from vaekit.distributions.bessel import bessel
from vaekit.distributions.quantile import quantile
from vaekit.distributions.sphere import (
    PowerSpherical,
    UniformSphere,
    VonMisesFisher,
    log_area,
    log_gamma_difference,
    normalised,
    rotated,
)
from vaekit.testing.statistics import expect_mean

F64 = torch.float64
DIMS = (2, 3, 4, 5, 9, 26, 27, 50, 128, 512)
KAPPAS = (0.0, 1e-3, 0.3, 1.0, 10.0, 100.0, 1e3, 1e4)
FAMILIES = (VonMisesFisher, PowerSpherical)
Family = type[VonMisesFisher] | type[PowerSpherical]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def density(family: Family, dim: int, *kappas: float, seed: int = 0) -> VonMisesFisher | PowerSpherical:
    return family(normalised(random(len(kappas), dim, seed=seed)), torch.tensor(kappas, dtype=F64))


def uniform(dim: int) -> UniformSphere:
    return UniformSphere(torch.zeros(dim, dtype=F64))


def kl(q: VonMisesFisher | PowerSpherical) -> Tensor:
    per_dim = kl_per_dim(q, uniform(q.mu.shape[-1]))
    assert per_dim is not None
    return per_dim.sum(-1)


def log_density_of_angle(q: VonMisesFisher | PowerSpherical, angle: Tensor) -> Tensor:
    """Return the log density of the angle between z and mu, at angles ``(N,)``, from that of z."""
    dim = q.mu.shape[-1]
    side = normalised(rotated(q.mu[0], torch.eye(dim, dtype=F64)[1]))
    z = torch.cos(angle)[:, None] * q.mu[0] + torch.sin(angle)[:, None] * side
    circle = log_area(dim - 1) if dim > 2 else math.log(2)  # of the points at one angle
    return q.log_prob(z[:, None])[:, 0] + (dim - 2) * torch.log(torch.sin(angle)) + circle


@pytest.mark.parametrize("dim", DIMS)
def test_bessel_functions_match_scipy_up_to_large_orders_and_arguments(dim: int) -> None:
    """If SciPy's scaled function underflows, for a large order and a small argument, the power series is used."""
    v, kappa = dim / 2 - 1, torch.tensor([*KAPPAS, float(dim)], dtype=F64)
    deficit, gap = bessel(v, kappa)
    for i, k in enumerate(kappa.tolist()):
        terms = [(j, j * math.log(max(k * k / 4, 1e-300)) - math.lgamma(j + 1)) for j in range(40)]
        series = special.logsumexp([t + math.lgamma(v + 1) - math.lgamma(v + 1 + j) for j, t in terms])
        if k <= 1 or special.ive(v, k) < 1e-250:
            log_ratio = series
        else:
            log_ratio = math.log(special.ive(v, k)) + k - v * math.log(k / 2) + math.lgamma(v + 1)
        assert deficit[i].item() == pytest.approx(k - log_ratio, rel=1e-6, abs=1e-9)
        if special.ive(v + 1, k) > 1e-250:
            expected = k * (1 - special.ive(v + 1, k) / special.ive(v, k))
            assert gap[i].item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("dim", DIMS)
def test_the_derivative_of_the_normaliser_is_the_mean_cosine(dim: int) -> None:
    """d log G / d kappa is ``I_{v+1} / I_v``, and that ratio has the derivative ``1 - A^2 - (D - 1) A / kappa``."""
    kappa = torch.tensor(KAPPAS, dtype=F64, requires_grad=True)
    deficit, gap = bessel(dim / 2 - 1, kappa)
    (slope,) = torch.autograd.grad(deficit.sum(), kappa, retain_graph=True)
    torch.testing.assert_close(kappa * slope, gap, rtol=1e-8, atol=1e-12)
    (of_gap,) = torch.autograd.grad(gap.sum(), kappa)
    large = kappa.detach()[4:]
    a = 1 - (gap.detach() / kappa.detach())[4:]
    expected = 1 - a - large * (1 - a.square() - (dim - 1) * a / large)
    torch.testing.assert_close(of_gap[4:], expected, rtol=1e-5, atol=1e-9)  # the expected value cancels, by four digits at 1e4
    assert slope[0] == 1
    assert of_gap[0] == 1


@pytest.mark.parametrize("dim", DIMS)
def test_float32_loses_no_digits_to_cancellation(dim: int) -> None:
    """5e-5 is some hundred roundings, of as many sums."""
    kappa = torch.tensor(KAPPAS)
    for single, double in zip(bessel(dim / 2 - 1, kappa), bessel(dim / 2 - 1, kappa.double()), strict=True):
        torch.testing.assert_close(single.double(), double, rtol=5e-5, atol=1e-6)
    b = 0.5 * (dim - 1)
    for single, double in zip(log_gamma_difference(kappa + b, b), log_gamma_difference(kappa.double() + b, b), strict=True):
        torch.testing.assert_close(single.double(), double, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("b", [0.5, 1.0, 24.5, 255.5])
def test_the_difference_of_log_gammas_matches_scipy(b: float) -> None:
    value, slope = (each.numpy() for each in log_gamma_difference(b + torch.tensor(KAPPAS, dtype=F64), b))
    a = b + np.array(KAPPAS)
    np.testing.assert_allclose(value, special.gammaln(a + b) - special.gammaln(a), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(slope, special.digamma(a + b) - special.digamma(a), rtol=1e-9)


@pytest.mark.parametrize(("dim", "kappa"), [*itertools.product((2, 3, 10, 50), (1e-3, 1.0, 30.0, 1e4)), (512, 100.0), (512, 1e4)])
def test_the_von_mises_fisher_density_matches_scipy(dim: int, kappa: float) -> None:
    q = density(VonMisesFisher, dim, kappa)
    z = normalised(q.mu + random(20, dim, seed=1) * min(1.0, kappa**-0.5))
    expected = stats.vonmises_fisher(q.mu[0].numpy(), kappa).logpdf(z.numpy())
    np.testing.assert_allclose(q.log_prob(z[:, None])[:, 0], expected, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dim", [2, 3, 6, 40])
@pytest.mark.parametrize("kappa", [0.0, 0.4, 5.0, 200.0, 1e4])
def test_densities_integrate_to_one_and_have_their_moments(family: Family, dim: int, kappa: float) -> None:
    """By the trapezoidal rule over ``y = 2 artanh(cos)``, which converges exponentially: all derivatives vanish at the ends."""
    q, y = density(family, dim, kappa), torch.linspace(-70, 70, 1401, dtype=F64)
    angle = 2 * torch.atan(torch.exp(-0.5 * y))
    mass = torch.exp(log_density_of_angle(q, angle)) * 0.5 * torch.sin(angle) * (y[1] - y[0])
    assert mass.sum().item() == pytest.approx(1, abs=1e-8)
    if family is VonMisesFisher:
        cosine = special.ive(dim / 2, kappa) / special.ive(dim / 2 - 1, kappa) if kappa else 0.0
    else:
        cosine = kappa / (dim - 1 + kappa)
    assert (mass * torch.cos(angle)).sum().item() == pytest.approx(cosine, abs=1e-8)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dim", [2, 3, 40])
def test_zero_concentration_is_uniform(family: Family, dim: int) -> None:
    q = density(family, dim, 0.0)
    z = normalised(random(5, 1, dim))
    torch.testing.assert_close(q.log_prob(z), uniform(dim).log_prob(z))
    torch.testing.assert_close(q.log_prob(-q.mu), uniform(dim).log_prob(q.mu))
    assert kl(q).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("dim", [2, 3, 10, 50])
@pytest.mark.parametrize("kappa", [0.5, 20.0, 5e3])
def test_draws_match_scipy(dim: int, kappa: float) -> None:
    """Kolmogorov-Smirnov test of the cosine and of a random direction; one of 24 tests fails by chance in 4,000 runs."""
    mu = normalised(random(1, dim))
    z = VonMisesFisher(mu, torch.tensor([kappa], dtype=F64)).rsample(random(10_000, 1, dim, seed=1))[:, 0]
    others = torch.as_tensor(stats.vonmises_fisher(mu[0].numpy(), kappa).rvs(10_000, random_state=0))
    for direction in (mu[0], random(dim, seed=2)):
        assert stats.ks_2samp((z @ direction).numpy(), (others @ direction).numpy()).pvalue > 1e-5
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(10_000, dtype=F64))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dim", [2, 3, 50])
@pytest.mark.parametrize("kappa", [0.0, 3.0, 1e4])
def test_draws_have_the_mean_and_the_divergence_of_the_density(family: Family, dim: int, kappa: float) -> None:
    q = density(family, dim, kappa)
    z = q.rsample(random(10_000, 1, dim, seed=1))
    if family is VonMisesFisher:
        length = special.ive(dim / 2, kappa) / special.ive(dim / 2 - 1, kappa) if kappa else 0.0
    else:
        length = kappa / (dim - 1 + kappa)
    expect_mean(z[:, 0], length * q.mu[0], "the mean of draws")
    expect_mean(q.log_prob(z) - uniform(dim).log_prob(z), kl(q), "log q - log p of draws, against the KL")


@pytest.mark.parametrize("dim", [2, 3, 10, 200])
@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_quantiles_match_the_beta_distribution(dim: int, dtype: torch.dtype) -> None:
    """As angles, so that both ends have all their digits, up to six standard deviations; 2e-4 of one in float32."""
    noise = torch.linspace(-6, 6, 25, dtype=dtype)
    b = 0.5 * (dim - 1)
    for kappa in KAPPAS:
        q = PowerSpherical(torch.eye(dim, dtype=dtype)[:1], torch.tensor([kappa], dtype=dtype))
        given = torch.ones(25, 1, dim, dtype=dtype)
        given[:, 0, 0] = noise
        z = q.rsample(given)[:, 0].double()
        angle = torch.atan2(z[:, 1:].norm(dim=-1), z[:, 0]).numpy()
        lower, upper = (special.ndtr(sign * noise.double().numpy()) for sign in (1, -1))
        below = 2 * np.arccos(np.sqrt(special.betaincinv(b + kappa, b, lower)))
        above = 2 * np.arcsin(np.sqrt(special.betaincinv(b, b + kappa, upper)))
        expected = np.where(lower <= upper, below, above)
        np.testing.assert_allclose(angle, expected, rtol=0, atol=(1e-4 if dtype == F64 else 4e-4) * expected.std())


def test_quantiles_of_the_logistic_density_and_their_gradient_are_known() -> None:
    """``F^-1(u) = m + s log(u / (1 - u))``; tails of the noise beyond 5 hold a millionth of it."""
    m, s = (torch.tensor([value], dtype=F64, requires_grad=True) for value in (0.7, 2.5))

    def log_density(y: Tensor) -> Tensor:
        t = (y - m.unsqueeze(-1)) / s.unsqueeze(-1)
        return torch.nn.functional.logsigmoid(t) + torch.nn.functional.logsigmoid(-t)

    noise = torch.linspace(-5, 5, 41, dtype=F64)[:, None]
    odds = torch.special.log_ndtr(noise) - torch.special.log_ndtr(-noise)
    found = quantile(log_density, m, s * 2**0.5, noise)
    torch.testing.assert_close(found, (m + s * odds).detach().expand_as(found), rtol=1e-7, atol=1e-7)
    weights = random(*noise.shape)
    by_m, by_s = torch.autograd.grad((weights * found).sum(), (m, s))
    torch.testing.assert_close(by_m[0], weights.sum(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(by_s[0], (weights * odds).sum(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dim", [2, 3, 10])
def test_the_mean_gradient_of_draws_is_that_of_their_mean(dim: int) -> None:
    """The mean cosine is A(kappa) for von Mises-Fisher, and ``kappa / (D - 1 + kappa)`` for power spherical densities."""
    for family in FAMILIES:
        kappa = torch.full((10_000,), 4.0, dtype=F64, requires_grad=True)
        q = family(normalised(random(1, dim)).expand(10_000, dim), kappa)
        cosine = (q.rsample(random(10_000, dim, seed=1)) * q.mu).sum(-1)
        (gradient,) = torch.autograd.grad(cosine.sum(), kappa)
        a = special.ive(dim / 2, 4) / special.ive(dim / 2 - 1, 4)
        expected = 1 - a**2 - (dim - 1) * a / 4 if family is VonMisesFisher else (dim - 1) / (dim + 3) ** 2
        expect_mean(gradient, expected, "the gradient of the cosine by kappa")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dim", [2, 3, 50])
@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_gradients_are_finite_for_any_concentration(family: Family, dim: int, dtype: torch.dtype) -> None:
    kappa = torch.tensor([0.0, 1e-6, 1.0, 1e4, 1e6], dtype=dtype, requires_grad=True)
    mu = normalised(random(5, dim)).to(dtype).requires_grad_()
    q = family(mu, kappa)
    z = q.rsample(random(300, 5, dim).to(dtype))
    for value in (z.sum(), q.log_prob(z.detach()).sum(), q.log_prob(-mu).sum(), kl(q).sum()):
        for gradient in torch.autograd.grad(value, (mu, kappa), retain_graph=True, allow_unused=True):
            assert gradient is None or gradient.isfinite().all()


@pytest.mark.parametrize("dim", [2, 3, 10])
@pytest.mark.parametrize("kappa", [0.5, 30.0])
def test_the_entropy_of_the_power_spherical_density_matches_the_paper(dim: int, kappa: float) -> None:
    """``H = log N - kappa (log 2 + psi(a) - psi(a + b))``, with N the normaliser, a and b those of the Beta distribution."""
    b = (dim - 1) / 2
    a = b + kappa
    log_n = (a + b) * math.log(2) + b * math.log(math.pi) + math.lgamma(a) - math.lgamma(a + b)
    entropy = log_n - kappa * (math.log(2) + special.digamma(a) - special.digamma(a + b))
    q = density(PowerSpherical, dim, kappa)
    assert log_area(dim) - kl(q).item() == pytest.approx(entropy, rel=1e-10)
    assert q.log_prob(q.mu).item() == pytest.approx(kappa * math.log(2) - log_n, rel=1e-10)


def test_the_axis_is_mapped_to_any_direction_by_an_isometry() -> None:
    mu = torch.cat([normalised(random(5, 4)), torch.eye(4, dtype=F64), -torch.eye(4, dtype=F64)])
    points = random(4, 1, 4)
    turned = rotated(mu, points)
    torch.testing.assert_close(turned.norm(dim=-1), points.norm(dim=-1).expand(4, 13))
    torch.testing.assert_close(rotated(mu, torch.eye(4, dtype=F64)[0].expand(13, 4)), mu)


def test_vectors_of_length_zero_have_a_direction() -> None:
    assert torch.equal(normalised(torch.zeros(2, 3)), torch.eye(3)[:1].expand(2, 3))


def test_draws_of_the_prior_are_uniform() -> None:
    z = uniform(3).rsample(random(20_000, 3))
    assert stats.kstest(z[:, 0].numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-5  # Archimedes: each coordinate is uniform
    assert uniform(3).log_prob(z)[0].item() == pytest.approx(-math.log(4 * math.pi))
    assert uniform(2).log_prob(z[:, :2])[0].item() == pytest.approx(-math.log(2 * math.pi))


@pytest.mark.parametrize("b", ["near", "far", "same", "opposite"])
def test_geodesics_stay_on_the_sphere_at_constant_speed(b: str) -> None:
    start = normalised(random(5))
    end = {
        "near": normalised(start + 0.1 * random(5, seed=1)),
        "far": normalised(random(5, seed=1)),
        "same": start,
        "opposite": -start,
    }
    path = uniform(5).geodesic(start, end[b], torch.linspace(0, 1, 6, dtype=F64))
    torch.testing.assert_close(path.norm(dim=-1), torch.ones(6, dtype=F64))
    torch.testing.assert_close(path[[0, -1]], torch.stack([start, end[b]]))
    chords = path.diff(dim=0).norm(dim=-1)
    torch.testing.assert_close(chords, chords[:1].expand(5))
    angle = torch.acos((start @ end[b]).clamp(-1, 1))
    assert 5 * 2 * torch.asin(chords[0] / 2).item() == pytest.approx(angle.item(), abs=1e-6)
