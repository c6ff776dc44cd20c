"""Densities integrate to one and agree with torch.distributions; KLs agree with Monte Carlo estimates."""

import math

import pytest
import torch
from torch import distributions as td

from vaekit.distributions import (
    AbsoluteErrorPixels,
    BernoulliPixels,
    Delta,
    DiagonalGaussian,
    GaussianPixels,
    LaplacePixels,
    SquaredErrorPixels,
    StandardNormal,
    kl_per_dim,
)


def gaussian(batch=4, dim=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mu, logvar = torch.randn(2, batch, dim, generator=generator, dtype=torch.float64)
    return DiagonalGaussian(mu, logvar)


def test_diagonal_gaussian_unpacks_into_mu_and_logvar():
    q = gaussian()
    mu, logvar = q
    assert mu is q.mu
    assert logvar is q.logvar
    assert q.mean is mu


def test_diagonal_gaussian_log_prob_agrees_with_torch():
    q = gaussian()
    z = torch.randn(5, 4, 3, dtype=torch.float64)
    expected = td.Independent(td.Normal(q.mu, torch.exp(0.5 * q.logvar)), 1).log_prob(z)
    torch.testing.assert_close(q.log_prob(z), expected)


@pytest.mark.parametrize("shape", [(300, 1, 28, 28), (7, 50, 1, 28, 28), (2, 3, 4, 1, 5, 5), (0, 1, 28, 28)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bernoulli_pixels_without_gradients_are_scored_as_with_them(shape, dtype):
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(shape, generator=generator, dtype=dtype)
    value = torch.rand(shape[-4:], generator=generator, dtype=dtype)
    with torch.no_grad():
        scores = BernoulliPixels(logits).log_prob(value)
    differentiable = BernoulliPixels(logits.clone().requires_grad_()).log_prob(value)
    assert differentiable.requires_grad
    torch.testing.assert_close(scores, differentiable.detach(), rtol=2e-6 if dtype == torch.float32 else 1e-13, atol=0)


def test_bernoulli_scores_leave_their_arguments_and_are_finite_for_extreme_logits():
    logits = torch.tensor([-1e30, -200.0, -88.0, 0.0, 88.0, 200.0, 1e30]).view(7, 1, 1, 1)
    for value in (0.0, 1.0):
        pixels = torch.full((7, 1, 1, 1), value)
        with torch.no_grad():
            scores = BernoulliPixels(logits).log_prob(pixels)
        exact = -torch.nn.functional.softplus((1 - 2 * value) * logits.double()).flatten()
        torch.testing.assert_close(scores.double(), exact, rtol=1e-6, atol=1e-7)
        assert pixels.unique().tolist() == [value]
    assert logits[1].item() == -200.0


@pytest.mark.parametrize(
    "density", [StandardNormal(torch.zeros(1).double()), DiagonalGaussian(*torch.full((2, 1), 0.7).double())]
)
def test_latent_density_integrates_to_one(density):
    z = torch.linspace(-15, 15, 20_001, dtype=torch.float64)
    assert torch.trapezoid(density.log_prob(z[:, None]).exp(), z).item() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("cls", [GaussianPixels, LaplacePixels])
def test_pixel_density_integrates_to_one(cls):
    x = torch.linspace(-12, 12, 48_001, dtype=torch.float64)
    density = cls(torch.tensor(0.3).double().view(1, 1, 1), torch.tensor(-0.5).double())
    total = torch.trapezoid(density.log_prob(x.view(-1, 1, 1, 1)).exp(), x).item()
    assert total == pytest.approx(1.0, abs=1e-6)  # the Laplace density has a kink, which the trapezoidal rule cuts off


def test_bernoulli_masses_sum_to_one():
    density = BernoulliPixels(torch.full((2, 1, 1, 1), 1.7).double())
    masses = density.log_prob(torch.tensor([0.0, 1.0]).double().view(2, 1, 1, 1)).exp()
    assert masses.sum().item() == pytest.approx(1.0)


def test_squared_error_is_a_gaussian_of_variance_one_half_up_to_its_constant():
    x, mean = torch.rand(2, 3, 1, 4, 4, dtype=torch.float64)
    full = GaussianPixels(mean, torch.tensor(0.5 * math.log(0.5)).double()).log_prob(x)
    torch.testing.assert_close(SquaredErrorPixels(mean).log_prob(x), full + 8 * math.log(math.pi))


def test_bernoulli_is_finite_at_extreme_logits():
    for logit in (1e4, -1e4):
        logits = torch.full((1, 1, 2, 2), logit, requires_grad=True)
        value = BernoulliPixels(logits).log_prob(torch.tensor([0.0, 1.0, 0.5, 1.0]).view(1, 1, 2, 2)).sum()
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("cls", [GaussianPixels, LaplacePixels])
def test_pixel_samples_have_the_specified_scale(cls):
    noise = torch.randn(200_000, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    samples = cls(torch.full((1, 1, 1), 0.4), torch.tensor(math.log(0.2))).rsample(noise)
    spread = samples.std() if cls is GaussianPixels else (samples - 0.4).abs().mean()
    assert spread.item() == pytest.approx(0.2, rel=0.01)
    assert samples.mean().item() == pytest.approx(0.4, abs=0.003)


def test_absolute_errors_are_a_laplace_density_up_to_a_constant():
    x, mean = torch.rand(2, 5, 1, 2, 4, dtype=torch.float64)
    full = LaplacePixels(mean, torch.zeros_like(mean)).log_prob(x)
    torch.testing.assert_close(AbsoluteErrorPixels(mean).log_prob(x), full + 8 * math.log(2))


def test_event_sums_of_bfloat16_are_computed_in_float32():
    x = torch.full((1, 3, 64, 64), 0.75, dtype=torch.bfloat16)
    value = SquaredErrorPixels(torch.zeros_like(x)).log_prob(x)
    assert value.dtype == torch.float32
    assert value.item() == -0.5625 * 3 * 64 * 64


@pytest.mark.parametrize("p", [StandardNormal(torch.zeros(3).double()), gaussian(seed=1)])
def test_kl_agrees_with_monte_carlo(p):
    q = gaussian()
    noise = torch.randn(200_000, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = q.rsample(noise)
    sampled = q.log_prob(z) - p.log_prob(z)
    error = sampled.std(0) / math.sqrt(len(sampled))
    assert ((sampled.mean(0) - kl_per_dim(q, p).sum(-1)).abs() < 5 * error).all()


def test_kl_of_a_density_from_itself_is_zero():
    q = gaussian()
    torch.testing.assert_close(kl_per_dim(q, q), torch.zeros(4, 3).double())
    p = StandardNormal(torch.zeros(3).double())
    same = DiagonalGaussian(torch.zeros(2, 3).double(), torch.zeros(2, 3).double())
    torch.testing.assert_close(kl_per_dim(same, p), torch.zeros(2, 3).double())


def test_kl_without_a_closed_form_is_none():
    assert kl_per_dim(Delta(torch.zeros(2, 3)), StandardNormal(torch.zeros(3))) is None


def test_reparameterised_gradients_match_the_formula():
    mu, logvar = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(4, 3, dtype=torch.float64)
    grads = torch.autograd.grad(DiagonalGaussian(mu, logvar).rsample(noise).sum(), (mu, logvar))
    torch.testing.assert_close(grads[0], torch.ones(4, 3).double())
    torch.testing.assert_close(grads[1], 0.5 * torch.exp(0.5 * logvar) * noise)
