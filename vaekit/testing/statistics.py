"""Statistical tests, with known error rates, of whether samples follow a density.

A test rejects a correct component with a probability of about `LEVEL`. With `NUM_DRAWS` samples, it detects a scale that is off
by 10%, or a shift of 5% of the standard deviation, with a probability above 0.99.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from vaekit.testing.core import expect, expect_finite

LogDensity = Callable[[Tensor], Tensor]

LEVEL = 1e-6
"""The probability that a test rejects a correct component."""
NUM_DRAWS = 50_000
ERRORS = 4.9
"""The number of standard errors by which a mean may be off: the two-sided normal quantile at `LEVEL`."""
NUM_FREQUENCIES = 16
NARROWER = 0.25
"""The variance of the Gaussian used to check the densities returned with samples, as a fraction of that of the samples."""
UNEVEN = 0.05
"""The largest standard error allowed for the mean of importance weights; above it, a test would have no power."""


def line_around(draws: Tensor) -> Tensor:
    """Return quadrature points over the real line: dense around samples ``(N,)``, and reaching a million times further.

    They are equidistant in asinh, which resolves a narrow mode far from the others and covers tails as heavy as Cauchy's.
    """
    low, middle, high = draws.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=draws.dtype)).unbind()
    scale = (high - low).item() / 1.35 or 1.0
    return middle + scale * torch.linspace(-14.5, 14.5, 100_001, dtype=draws.dtype).sinh()


def expect_mass(log_density: LogDensity, points: Tensor, what: str) -> None:
    """Raise unless a density integrates to 1 over increasing quadrature points."""
    mass = torch.trapezoid(log_density(points).exp(), points).item()
    expect(math.isclose(mass, 1, abs_tol=1e-3), f"the integral of {what}", expected=1, got=f"{mass:.5f}")


def expect_draws(draws: Tensor, log_density: LogDensity, points: Tensor, what: str) -> Tensor:
    """Raise unless samples ``(N,)`` follow a one-dimensional density; return its CDF at the samples.

    This is the Kolmogorov-Smirnov test: asymptotically, the largest distance between the empirical CDF and that of the density
    exceeds ``sqrt(log(2 / level) / 2N)`` with probability ``level``.

    Args:
        draws: The draws.
        log_density: Maps ``(M,)`` points to log densities, up to a constant.
        points: Increasing quadrature points.
        what: What is compared, for the message.
    """
    expect_finite(draws, what)
    draws, logs = draws.contiguous(), log_density(points)
    density = (logs - logs.max()).exp()
    steps = 0.5 * (density[1:] + density[:-1]) * points.diff()
    cumulative = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
    cumulative = cumulative / cumulative[-1]
    right = torch.searchsorted(points, draws).clamp(1, len(points) - 1)
    share = ((draws - points[right - 1]) / (points[right] - points[right - 1])).clamp(0, 1)
    values = torch.lerp(cumulative[right - 1], cumulative[right], share)

    ordered, num = values.sort().values, len(draws)
    ranks = torch.arange(num + 1, dtype=draws.dtype) / num
    distance = torch.maximum(ranks[1:] - ordered, ordered - ranks[:-1]).max().item()
    allowed = math.sqrt(math.log(2 / LEVEL) / (2 * num))
    quarters = torch.tensor([0.25, 0.75], dtype=draws.dtype)
    half = points[torch.searchsorted(cumulative, quarters).clamp(max=len(points) - 1)].tolist()
    expect(
        distance <= allowed,
        what,
        expected=f"half of them within {half[0]:.3g} and {half[1]:.3g}; a Kolmogorov-Smirnov distance of at most {allowed:.3f}",
        got="within {:.3g} and {:.3g}; {:.3f}".format(*draws.quantile(quarters).tolist(), distance),
    )
    return values


def expect_independent(uniforms: Tensor, what: str) -> None:
    """Raise unless the columns of ``(N, D)`` uniform values on [0, 1] and their distances from 1/2 are uncorrelated."""
    for each, about in ((uniforms, "values"), ((uniforms - 0.5).abs(), "spreads")):
        correlations = torch.corrcoef(each.T).triu(1)
        largest = correlations.flatten()[correlations.abs().argmax()].item()
        allowed = ERRORS / math.sqrt(len(each))
        expect(
            abs(largest) <= allowed,
            f"the correlation of {about} between {what}",
            expected=f"0 ± {allowed:.3f}",
            got=f"{largest:.3f}",
        )


def expect_mean(values: Tensor, expected: Tensor | float, what: str, *, atol: float = 1e-9) -> None:
    """Raise unless the mean of ``(N, …)`` values over their first dimension is as expected, within `ERRORS` standard errors."""
    expect_finite(values, what)
    mean, error = values.mean(0), values.std(0) / math.sqrt(len(values))
    wanted = torch.as_tensor(expected, dtype=mean.dtype).expand(mean.shape)
    excess = (mean - wanted).abs() - ERRORS * error - atol
    worst = excess.argmax()
    numbers = [each.flatten()[worst].item() for each in (wanted, ERRORS * error, mean)]
    expect(bool((excess <= 0).all()), what, expected="{:.4g} ± {:.2g}".format(*numbers[:2]), got=f"{numbers[2]:.4g}")


def cauchy_around(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``(N, D)`` samples from a Cauchy distribution with the location and scale of others, and their log densities.

    Its tails are heavy enough that the importance weights of any density with a mean have finite variance.
    """
    num, dim = draws.shape
    covariance = torch.cov(draws.T).reshape(dim, dim)
    scale = torch.linalg.cholesky(covariance + (1e-6 * covariance.trace() / dim + 1e-12) * torch.eye(dim, dtype=draws.dtype))
    standard = torch.randn(num, dim, dtype=draws.dtype) / torch.randn(num, 1, dtype=draws.dtype).abs()
    constant = math.lgamma((1 + dim) / 2) - math.lgamma(0.5) - 0.5 * dim * math.log(math.pi) - scale.logdet()
    return draws.mean(0) + standard @ scale.T, constant - 0.5 * (1 + dim) * standard.square().sum(-1).log1p()


def weights_of(log_weights: Tensor, what: str) -> Tensor:
    """Return importance weights; raise if they are too uneven for an informative mean."""
    weights = log_weights.exp()
    expect_finite(weights, f"importance weights: {what}")
    error = weights.std().item() / math.sqrt(len(weights))
    few = f"weights too uneven, with {error:.2g}"
    expect(error <= UNEVEN, what, expected=f"a standard error of at most {UNEVEN}", got=few)
    return weights


def expect_joint_mass(draws: Tensor, log_density: LogDensity, what: str) -> None:
    """Raise unless a density over vectors integrates to 1, by importance sampling around samples ``(N, D)``."""
    proposed, log_proposal = cauchy_around(draws)
    what = f"the integral of {what}"
    expect_mean(weights_of(log_density(proposed) - log_proposal, what), 1.0, what)


def expect_joint_draws(draws: Tensor, log_density: LogDensity, what: str) -> None:
    """Raise unless samples ``(N, D)`` follow a joint density, compared by characteristic functions at random frequencies.

    The characteristic function of the samples is a mean, that of the density an integral, estimated by importance sampling. It
    determines distributions of any shape and support, and needs no derivative of the density.

    Args:
        draws: The draws.
        log_density: Maps ``(N, D)`` vectors to ``(N,)`` log densities.
        what: What is compared, for the message.
    """
    expect_finite(draws, what)
    proposed, log_proposal = cauchy_around(draws)
    weights = weights_of(log_density(proposed) - log_proposal, what)
    frequencies = torch.randn(NUM_FREQUENCIES, draws.shape[1], dtype=draws.dtype) / (draws.std(0) + 1e-12)

    def waves(z: Tensor) -> Tensor:
        phases = (z - draws.mean(0)) @ frequencies.T
        return torch.cat([phases.cos(), phases.sin()], 1)

    drawn, integrated = waves(draws), weights[:, None] * waves(proposed)
    difference = drawn.mean(0) - integrated.mean(0)
    allowed = ERRORS * ((drawn.var(0) + integrated.var(0)) / len(draws)).sqrt()
    worst = (difference.abs() / allowed).argmax()
    expect(
        bool((difference.abs() <= allowed).all()),
        f"the characteristic function of {what}",
        expected=f"{integrated.mean(0)[worst].item():.4g} ± {allowed[worst].item():.2g}",
        got=f"{drawn.mean(0)[worst].item():.4g}",
    )


def expect_draws_with_log_probs(draws: Tensor, log_q: Tensor, what: str) -> None:
    """Raise unless samples ``(N, D)`` have the log densities ``(N,)`` returned with them.

    For any density g whose support is within that of q, ``E_q[g(z) / q(z) w(z)] = E_g[w(z)]``. Here, g is a Gaussian within the
    samples, narrower than they are, so that the weights are even; w are waves of random frequencies and the constant 1. A
    factor missing in q, everywhere or in places, for example because two noises map to one sample, shows up in one of these
    means.

    Args:
        draws: The draws.
        log_q: The log densities returned with them.
        what: What is compared, for the message.
    """
    expect_finite(draws, what)
    expect_finite(log_q, what)
    covariance = NARROWER * torch.cov(draws.T).reshape(draws.shape[1], -1)
    scale = torch.linalg.cholesky(covariance)
    centred = draws - draws.mean(0)
    standard = torch.linalg.solve_triangular(scale, centred.T, upper=False).T
    log_g = -0.5 * (standard.square() + math.log(2 * math.pi)).sum(-1) - scale.diagonal().log().sum()
    what = f"importance weights of {what}"
    weights = weights_of(log_g - log_q, what)
    frequencies = torch.randn(NUM_FREQUENCIES, draws.shape[1], dtype=draws.dtype)
    phases = standard @ frequencies.T
    waves = torch.cat([torch.ones_like(weights)[:, None], phases.cos(), phases.sin()], 1)
    damped = (-0.5 * frequencies.square().sum(-1)).exp()
    expected = torch.cat([damped.new_ones(1), damped, torch.zeros_like(damped)])
    expect_mean(weights[:, None] * waves, expected, what)
