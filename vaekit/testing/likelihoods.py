"""Checks of likelihoods."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vaekit.distributions import QuantisedDensity
from vaekit.errors import UsageError
from vaekit.interfaces import Likelihood, Shape
from vaekit.testing.backbones import expect_compiles
from vaekit.testing.common import (
    expect_detachable,
    expect_exact_gradient,
    expect_gradients,
    expect_pure_state,
    expect_same_after_loading,
    module_of,
)
from vaekit.testing.core import Candidate, check, during, expect, expect_close, expect_finite
from vaekit.testing.statistics import NUM_DRAWS, UNEVEN, expect_draws, expect_mass, expect_mean, line_around, weights_of
from vaekit.trace import Trace

F64 = torch.float64
IMAGE_SHAPES: tuple[Shape, ...] = ((1, 28, 28), (3, 5, 4), (4, 1, 1))
OTHER_SHAPES: tuple[Shape, ...] = ((7,), (1,), (2, 9), (2, 3, 5, 4))
"""The shapes of tables, signals and volumes, which a likelihood may reject."""
PIXEL: Shape = (1, 1, 1)
NUM_OUTPUTS = 4
NUM_STEPS = {"binary": 1, "levels": 255}
"""The number of steps from black to white for likelihoods of discrete pixels."""
MOST_COUNTS = 2_000_000
"""The number of counts, from 0, whose probabilities are summed."""
SHIFTS = (0.3, 0.03, 0.003, 0.0003)
"""The difference between decoder outputs whose likelihoods are compared, small enough for even importance weights."""


def likelihood_of(candidate: Candidate, data_shape: Shape = (2, 5, 4), dtype: torch.dtype = F64) -> Likelihood:
    """Build the likelihood for images of a given shape."""
    likelihood: Likelihood = module_of(candidate, dtype, data_shape=data_shape)
    return likelihood


def accepted_of(candidate: Candidate) -> list[Likelihood]:
    """Build the likelihood for images and for each other shape that it does not reject with a `UsageError`."""
    accepted = [likelihood_of(candidate, data_shape) for data_shape in IMAGE_SHAPES]
    for data_shape in OTHER_SHAPES:
        with during(f"building it for data of shape {data_shape}; unsupported shapes must raise a UsageError"):
            try:
                accepted.append(candidate.build(data_shape=data_shape).to(F64))
            except UsageError:
                continue
    return accepted


def params_of(likelihood: Likelihood, *batch: int, dtype: torch.dtype = F64) -> Tensor:
    """Return random decoder outputs."""
    return 3 * torch.randn(*batch, *likelihood.param_shape, dtype=dtype)


def images_of(likelihood: Likelihood, num: int = 6, dtype: torch.dtype = F64) -> Tensor:
    """Return random images that the likelihood can score."""
    x = torch.rand(num, *likelihood.data_shape, dtype=dtype)
    return (9 * x).round() if likelihood.scores == "counts" else scored(likelihood, x)


def scored(likelihood: Likelihood, x: Tensor) -> Tensor:
    """Return images rounded to values that the likelihood scores: pixels in [0, 1], or counts."""
    if likelihood.scores == "counts":
        return x.round()
    steps = NUM_STEPS.get(likelihood.scores)
    return x if steps is None else (steps * x).round() / steps


def others_of(likelihood: Likelihood, x: Tensor) -> Tensor:
    """Return images that differ from others in every element, by at least half the pixel range."""
    return 3 * x + 10 if likelihood.scores == "counts" else 1 - x.round()


def values_of(likelihood: Likelihood) -> Tensor | None:
    """Return all values of a pixel, or all counts of relevant probability; None if it is real-valued."""
    if likelihood.scores == "counts":
        return torch.arange(MOST_COUNTS, dtype=F64)
    steps = NUM_STEPS.get(likelihood.scores)
    return None if steps is None else torch.linspace(0, 1, steps + 1, dtype=F64)


def noise_of(likelihood: Likelihood, num: int, dtype: torch.dtype = F64) -> Tensor:
    """Return base noise for images."""
    return likelihood.draw_noise(num, like=torch.zeros((), dtype=dtype))


def repeated(likelihood: Likelihood, params: Tensor, num: int) -> Any:
    """Return p(x|z) for a single decoder output, repeated to score ``num`` images."""
    return likelihood(params.expand(num, *likelihood.param_shape))


@check("likelihood")
def check_scores(candidate: Candidate) -> None:
    """Each example has a finite log-likelihood under several samples, independent of earlier draws; means are in range.

    Tables, signals and volumes are scored as well or rejected with a `UsageError`.
    """
    for likelihood in accepted_of(candidate):
        data_shape = likelihood.data_shape
        params, x = params_of(likelihood, 2, 6), images_of(likelihood)
        with during(f"p(x|z) over data of shape {data_shape}"):
            p = likelihood(params)
            draws = p.rsample(noise_of(likelihood, 12).unflatten(0, (2, 6)))
            value = p.log_prob(x)
            alone = torch.stack([likelihood(sample).log_prob(x) for sample in params])
        expect_close(value, alone, "log_prob under 2 samples, after sampling, compared with each alone", rtol=1e-9)
        expect(
            value.shape == (2, 6),
            f"the shape of log_prob for 2 samples of 6 examples of {data_shape}",
            expected=(2, 6),
            got=tuple(value.shape),
        )
        expect_finite(value, "log_prob of images")
        for what, got in (("the mean", p.mean), ("a draw", draws)):
            expected = (2, 6, *data_shape)
            expect(got.shape == expected, f"the shape of {what}", expected=expected, got=tuple(got.shape))
        low, high = p.mean.min().item(), p.mean.max().item()
        if likelihood.support == "unit":
            expect(low >= 0 and high <= 1, "means for the support 'unit'", expected="within [0, 1]", got=f"{low} to {high}")


@check("likelihood")
def check_factorised(candidate: Candidate) -> None:
    """If ``factorised`` is declared, ``log_prob_per_dim`` has a term per element of an example; their sum is log_prob."""
    for likelihood in accepted_of(candidate):
        if not likelihood.factorised:
            continue
        params, x = params_of(likelihood, 2, 6), images_of(likelihood)
        with during("log_prob_per_dim, which 'factorised' declares"):
            terms = likelihood(params).log_prob_per_dim(x)
        expected = (2, 6, *likelihood.data_shape)
        expect(terms.shape == expected, "the shape of log_prob_per_dim", expected=expected, got=tuple(terms.shape))
        expect_close(
            terms.flatten(2).sum(-1),
            likelihood(params).log_prob(x),
            "the sum of log_prob_per_dim, compared with log_prob",
            rtol=1e-9,
        )
        changed = x.clone()
        changed.flatten(1)[:, 0] = others_of(likelihood, x.flatten(1)[:, 0])
        others = (likelihood(params).log_prob_per_dim(changed) - terms).abs().flatten(2)[..., 1:]
        got = others.max().item() if others.numel() else 0.0
        what = "log_prob_per_dim of the other elements after changing one"
        expect(got < 1e-12, what, expected="unchanged", got=f"off by {got}")


@check("likelihood")
def check_independence(candidate: Candidate) -> None:
    """The log-likelihood of an image does not depend on the rest of the batch."""
    likelihood = likelihood_of(candidate).eval()
    params, x = params_of(likelihood, 6), images_of(likelihood)
    alone = torch.cat([likelihood(params[i : i + 1]).log_prob(x[i : i + 1]) for i in range(6)])
    expect_close(likelihood(params).log_prob(x), alone, "a batch, compared with its images one by one", rtol=1e-10)


@check("likelihood")
def check_mean_scores_best(candidate: Candidate) -> None:
    """The mean image, rounded to valid pixels, scores higher than one that differs by at least half the pixel range.

    For multimodal densities, this need not hold for every decoder output, but for outputs fitted to an image.
    """
    likelihood = likelihood_of(candidate)
    params = params_of(likelihood, 6)
    got = _advantage(likelihood, params)
    if got <= 0:
        got = _advantage(likelihood, fitted(likelihood, params, images_of(likelihood)))
    expect(got > 0, "log_prob of the mean minus that of another image", expected="above 0", got=f"{got:.3f}")


def _advantage(likelihood: Likelihood, params: Tensor) -> float:
    """Return the minimum advantage in score of mean images over other images."""
    p = likelihood(params)
    near = scored(likelihood, p.mean)
    least: float = (p.log_prob(near) - p.log_prob(others_of(likelihood, near))).min().item()
    return least


def fitted(likelihood: Likelihood, params: Tensor, x: Tensor) -> Tensor:
    """Return decoder outputs fitted to images by a few hundred steps of gradient descent."""
    params = params.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([params], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        (-likelihood(params).log_prob(x).sum()).backward(inputs=[params])
        optimizer.step()
    return params.detach()


@check("likelihood")
def check_normalised(candidate: Candidate) -> None:
    """If ``normalised`` is declared, the likelihood of a single pixel sums or integrates to 1."""
    likelihood = likelihood_of(candidate, PIXEL)
    if not likelihood.normalised:
        return
    values = values_of(likelihood)
    for params in params_of(likelihood, NUM_OUTPUTS):
        if values is None:
            draws = repeated(likelihood, params, NUM_DRAWS).rsample(noise_of(likelihood, NUM_DRAWS)).flatten().detach()
            expect_mass(partial(_score, likelihood, params), _range(likelihood, draws), "the density of one pixel")
        else:
            mass = _score(likelihood, params, values).exp().sum().item()
            expect(abs(mass - 1) < 1e-9, "the mass of one pixel", expected=1, got=f"{mass:.5f}")


@check("likelihood")
@torch.no_grad()
def check_draws(candidate: Candidate) -> None:
    """Sampled pixels follow log_prob, and their mean is ``mean``.

    ``rsample`` uses the noise from ``draw_noise``. The log_prob of an unnormalised likelihood is normalised numerically over
    the range of a pixel: ``mse`` must sample from a Gaussian of variance 1/2.

    Whole images are sampled from p(x|z) and weighted by p(x|z') / p(x|z) for another decoder output. The mean weight is 1 if
    pixels depend on each other as in log_prob, and if a missing constant does not depend on the output.
    """
    likelihood = likelihood_of(candidate, PIXEL)
    values = values_of(likelihood)
    for params in params_of(likelihood, NUM_OUTPUTS):
        pixel = repeated(likelihood, params, NUM_DRAWS)
        draws = pixel.rsample(noise_of(likelihood, NUM_DRAWS)).flatten()
        if values is None:
            what = "samples of a pixel, compared with log_prob"
            expect_draws(draws, partial(_score, likelihood, params), _range(likelihood, draws), what)
        else:
            _expect_values(likelihood, draws, values, _score(likelihood, params, values).exp())
        expect_mean(draws, pixel.mean.flatten()[0], "the mean of samples of a pixel, compared with its attribute mean", atol=1e-4)
    likelihood = likelihood_of(candidate, (1, 2, 2))
    params = params_of(likelihood)
    image = repeated(likelihood, params, NUM_DRAWS)
    x = image.rsample(noise_of(likelihood, NUM_DRAWS))
    what = "the mean of p(x|z') / p(x|z) over samples from p(x|z)"
    for shift in SHIFTS:
        log_weights = repeated(likelihood, params + shift, NUM_DRAWS).log_prob(x) - image.log_prob(x)
        if log_weights.exp().std().item() / math.sqrt(NUM_DRAWS) <= UNEVEN:
            break
    expect_mean(weights_of(log_weights, what), 1.0, what)


def _expect_values(likelihood: Likelihood, draws: Tensor, values: Tensor, mass: Tensor) -> None:
    """Raise unless samples of a pixel are among its values, and the most probable ones have the right frequencies."""
    spacing = (values[1] - values[0]).item()
    apart = (draws / spacing - (draws / spacing).round()).abs() > 1e-6
    others = int((apart | (draws < values[0] - 1e-9) | (draws > values[-1] + 1e-9)).sum())
    expected = f"multiples of {spacing:.4g} from {values[0]:g} to {values[-1]:g}"
    expect(
        others == 0,
        f"samples of a pixel of {likelihood.scores}",
        expected=expected,
        got=f"{others} other values of {NUM_DRAWS}",
    )
    for level in mass.topk(2).indices.tolist():
        hits = (abs(draws - values[level]) < 0.5 * spacing).to(F64)
        what = f"the frequency of {values[level]:.4g}, compared with its probability"
        expect_mean(hits, mass[level].item(), what, atol=1 / NUM_DRAWS)


def _score(likelihood: Likelihood, params: Tensor, x: Tensor) -> Tensor:
    """Return the log-likelihoods of values ``(N,)`` of one pixel."""
    score: Tensor = repeated(likelihood, params, len(x)).log_prob(x.view(-1, *PIXEL))
    return score


def _range(likelihood: Likelihood, draws: Tensor) -> Tensor:
    """Return quadrature points for a pixel: over [0, 1] if that is its support and contains all draws, else over the reals."""
    if likelihood.support == "unit" and draws.min() >= 0 and draws.max() <= 1:
        return torch.linspace(0, 1, 100_001, dtype=F64)
    return line_around(draws)


@check("likelihood")
def check_grey_levels(candidate: Candidate) -> None:
    """If the density has `log_mass`, the probabilities of the grey levels sum to 1 and are integrals of the density."""
    likelihood = likelihood_of(candidate, PIXEL)
    pixel = likelihood(params_of(likelihood, 1))
    if not isinstance(pixel, QuantisedDensity):
        return
    num, width = 16, 1 / 15
    levels = torch.linspace(0, 1, num, dtype=F64)
    with during("log_mass of the grey levels of a pixel"):
        params = params_of(likelihood)
        mass = repeated(likelihood, params, num).log_mass(levels.view(-1, *PIXEL), width).exp()
    expect(mass.shape == (num,), "the shape of log_mass", expected=(num,), got=tuple(mass.shape))
    expect_close(mass.sum(), torch.ones((), dtype=F64), "the sum of the probabilities of all grey levels", rtol=1e-6)
    for level in levels[1:-1].tolist():
        points = torch.linspace(level - width / 2, level + width / 2, 2001, dtype=F64)
        integral = torch.trapezoid(_score(likelihood, params, points).exp(), points)
        got = mass[round(level * (num - 1))]
        expect_close(
            got, integral, "the probability of a grey level, compared with the integral of the density", rtol=1e-3, atol=1e-9
        )


@check("likelihood")
def check_gradient(candidate: Candidate) -> None:
    """The gradient of log_prob agrees with finite differences, and every parameter receives one."""
    likelihood = likelihood_of(candidate)
    params, x = params_of(likelihood, 6).requires_grad_(), images_of(likelihood)
    value = likelihood(params).log_prob(x).sum()
    (gradient,) = torch.autograd.grad(value, params, retain_graph=True, allow_unused=True)
    expect(gradient is not None and bool(gradient.any()), "the gradient to the decoder's output", expected="one", got="none")
    expect_finite(gradient, "the gradient to the decoder's output")
    expect_gradients(likelihood, value, "from log_prob")
    what = "the derivative of log_prob with respect to the decoder's output"
    expect_exact_gradient(lambda given: likelihood(given).log_prob(x), params.detach(), what)


@check("likelihood")
def check_detachment(candidate: Candidate) -> None:
    """When detached, p(x|z) has the same values and no gradient to its inputs."""
    likelihood = likelihood_of(candidate)
    x, noise = images_of(likelihood), noise_of(likelihood, 6)
    expect_detachable(likelihood, [params_of(likelihood, 6)], lambda p: [p.mean, p.rsample(noise), p.log_prob(x)])


@check("likelihood")
def check_extremes(candidate: Candidate) -> None:
    """In float32, log-likelihoods are finite for decoder outputs of ±1e4, and samples are finite for extreme noise."""
    likelihood = likelihood_of(candidate, dtype=torch.float32)
    x = images_of(likelihood, dtype=torch.float32)
    for value in (1e4, -1e4):
        p = likelihood(torch.full((6, *likelihood.param_shape), value))
        expect_finite(p.log_prob(x), f"log_prob for decoder outputs of {value:g}")
    p = likelihood(params_of(likelihood, 6, dtype=torch.float32))
    for rare in (-6.5, 6.5) if likelihood.scores == "density" else (0.0, 1.0 - 2.0**-24):
        expect_finite(p.rsample(torch.full_like(noise_of(likelihood, 6, torch.float32), rare)), f"samples for noise of {rare:g}")


@check("likelihood")
def check_dtype(candidate: Candidate) -> None:
    """Float32 stays float32 and float64 stays float64; half-precision decoder outputs are promoted to float32."""
    for given, expected in ((F64, F64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)):
        likelihood = likelihood_of(candidate, dtype=expected)
        p = likelihood(params_of(likelihood, 6, dtype=given))
        value = p.log_prob(images_of(likelihood, dtype=expected))
        draws = p.rsample(noise_of(likelihood, 6, dtype=expected))
        for what, got in (("the mean", p.mean), ("log_prob", value), ("draws", draws)):
            expect(got.dtype == expected, f"the dtype of {what} for {given}", expected=expected, got=got.dtype)


@check("likelihood")
def check_device(candidate: Candidate) -> None:
    """It moves to another device completely: it creates no CPU tensors."""
    likelihood = likelihood_of(candidate, dtype=torch.float32).to("meta")
    params, x = params_of(likelihood, 6, dtype=torch.float32), images_of(likelihood, dtype=torch.float32)
    with during("scoring on torch's meta device"):
        value = likelihood(params.to("meta")).log_prob(x.to("meta"))
    expect(value.device.type == "meta", "the device of log_prob", expected="meta", got=value.device.type)


@check("likelihood")
def check_compile(candidate: Candidate) -> None:
    """`torch.compile` compiles scoring to a single graph that agrees with eager mode."""
    likelihood = likelihood_of(candidate, dtype=torch.float32)
    arguments = params_of(likelihood, 6, dtype=torch.float32), images_of(likelihood, dtype=torch.float32)
    expect_compiles(lambda params, x: likelihood(params).log_prob(x), arguments)


@check("likelihood")
def check_state_dict(candidate: Candidate) -> None:
    """Saving the weights and loading them into a new instance gives bit-identical scores."""
    likelihood, other = likelihood_of(candidate), likelihood_of(candidate)
    params, x = params_of(likelihood, 6), images_of(likelihood)
    expect_same_after_loading(likelihood, other, lambda module: [module(params).log_prob(x)])


@check("likelihood")
def check_state(candidate: Candidate) -> None:
    """State learned without gradients is persistent, and its next values are a pure function of a trace.

    They are computed from `Likelihood.statistics` per example, which processes that share a batch exchange.
    """
    likelihood = likelihood_of(candidate)
    params, x = params_of(likelihood, 2, 6), images_of(likelihood)
    p = likelihood(params)
    with during("the statistics of 6 examples"):
        numbers = likelihood.statistics(p, x)
    if numbers is not None:
        each = [likelihood.statistics(likelihood(params[:, [i]]), x[[i]]) for i in range(6)]
        alone = torch.cat([own for own in each if own is not None])
        expect_close(numbers, alone, "the statistics of 6 examples, compared with each alone", rtol=1e-10)
    expect_pure_state(likelihood, likelihood, Trace(x, (), p, _statistics=numbers))
