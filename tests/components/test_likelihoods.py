"""Likelihoods compared with torch and SciPy, and their characteristic properties."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch import distributions as td

import vaekit
from vaekit import roles
from vaekit.data.facts import Facts
from vaekit.distributions import (
    CategoricalPixels,
    ContinuousBernoulliPixels,
    DiscretizedLogisticMixturePixels,
    DiscretizedLogisticPixels,
    GaussianPixels,
    NegativeBinomialCounts,
    Observed,
    PoissonCounts,
    StudentTPixels,
)
from vaekit.errors import DataError
from vaekit.model.assembly import build_vae
from vaekit.nn.heads import MIN_SCALE
from vaekit.specs.options import build_spec
from vaekit.trace import Trace

F64 = torch.float64
IMAGE = (2, 5, 4)
LEVELS = torch.arange(256, dtype=F64).view(-1, 1) / 255


def likelihood(kind: str, shape: tuple[int, ...] = IMAGE, **options: Any) -> Any:
    return roles.likelihoods.build(roles.likelihoods.spec(kind)(**options), data_shape=shape).double()


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def logits_around_zero() -> Tensor:
    sizes = torch.logspace(-12, math.log10(30), 60, dtype=F64)
    return torch.cat([-sizes.flip(0), torch.zeros(1, dtype=F64), sizes]).view(-1, 1)


def exact_continuous_bernoulli(logits: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the log of the normalising constant of ``exp(l x)`` on [0, 1], and the mean, by quadrature."""
    points, weights = np.polynomial.legendre.leggauss(80)  # exact for these entire functions up to rounding
    x, w = (points + 1) / 2, weights / 2
    values = np.exp(logits.numpy() * x)
    mass = (values * w).sum(-1)
    return np.log(mass), (values * w * x).sum(-1) / mass


def test_the_continuous_bernoulli_matches_a_quadrature_even_near_one_half() -> None:
    logits = logits_around_zero()
    p = ContinuousBernoulliPixels(logits, 1)
    log_constant, mean = exact_continuous_bernoulli(logits)
    x = 0.3
    expected = x * logits.numpy()[:, 0] - log_constant
    np.testing.assert_allclose(p.log_prob(torch.full_like(logits, x)).numpy(), expected, atol=1e-13)
    np.testing.assert_allclose(p.mean.numpy()[:, 0], mean, atol=1e-13)


def test_the_continuous_bernoulli_matches_torch() -> None:
    logits = randn(50, 1) * 4
    p, theirs = ContinuousBernoulliPixels(logits, 1), td.ContinuousBernoulli(logits=logits)
    x = torch.rand(50, 1, dtype=F64)
    torch.testing.assert_close(p.log_prob_per_dim(x), theirs.log_prob(x))
    torch.testing.assert_close(p.mean, theirs.mean)
    noise = randn(50, 1, seed=1)
    torch.testing.assert_close(p.rsample(noise), theirs.icdf(torch.special.ndtr(noise)))


def test_the_continuous_bernoulli_is_accurate_in_single_precision() -> None:
    logits = logits_around_zero()
    x = torch.full_like(logits, 0.3)
    exact, single = ContinuousBernoulliPixels(logits, 1), ContinuousBernoulliPixels(logits.float(), 1)
    assert (single.mean - exact.mean).abs().max() < 1e-6  # 1/v is up to 4, with float32's error of 6e-8
    torch.testing.assert_close(single.log_prob(x.float()).double(), exact.log_prob(x), rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("logit", [1e4, -1e4, 0.0, 0.05, -0.05])
def test_the_continuous_bernoulli_has_finite_values_and_gradients_everywhere(logit: float) -> None:
    logits = torch.full((3, 1), logit, requires_grad=True)
    p = ContinuousBernoulliPixels(logits, 1)
    x = torch.tensor([[0.0], [0.5], [1.0]])
    value = p.log_prob(x).sum() + p.mean.sum() + p.log_mass(x, 1 / 255).sum()
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert ((p.mean >= 0) & (p.mean <= 1)).all()


def test_the_cross_entropy_of_grey_pixels_is_the_continuous_bernoulli_without_its_constant() -> None:
    params, x = randn(3, *IMAGE), torch.rand(3, *IMAGE, dtype=F64)
    difference = likelihood("continuous_bernoulli")(params).log_prob(x) - likelihood("bce")(params).log_prob(x)
    constant = -np.log((np.exp(params.numpy()) - 1) / params.numpy()) + np.log1p(np.exp(params.numpy()))
    np.testing.assert_allclose(difference.numpy(), constant.sum((1, 2, 3)))
    assert (difference > 0).all()


@pytest.mark.parametrize("dof", [1.5, 5.0, 19.99, 20.01, 300.0])
def test_student_t_matches_torch(dof: float) -> None:
    location, log_scale, x = randn(3, 4), randn(4, seed=1), 5 * randn(3, 4, seed=2)
    degrees = torch.tensor([dof], dtype=F64)
    p, theirs = StudentTPixels(location, log_scale, degrees, 1), td.StudentT(degrees, location, log_scale.exp())
    torch.testing.assert_close(p.log_prob(x), theirs.log_prob(x).sum(-1), rtol=1e-9, atol=1e-9)
    noise = torch.randn(100_000, 2, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    draws = StudentTPixels(torch.zeros(1, dtype=F64), torch.zeros(1, dtype=F64), degrees, 1).rsample(noise)
    assert stats.kstest(draws.flatten().numpy(), stats.t(dof).cdf).pvalue > 1e-3


def test_single_precision_keeps_the_constant_of_student_t() -> None:
    x = torch.zeros(1, 784)
    for dof in (3.0, 50.0, 999.0):
        values = [
            StudentTPixels(x.to(dtype), torch.zeros(1, dtype=dtype), torch.tensor([dof], dtype=dtype), 1).log_prob(x.to(dtype))
            for dtype in (torch.float32, F64)
        ]
        assert abs(values[0].item() - values[1].item()) < 1e-3


def test_an_outlier_moves_student_t_less_than_a_gaussian() -> None:
    x = torch.tensor([[50.0]], dtype=F64)
    gradients = []
    for p in (StudentTPixels, GaussianPixels):
        mean = torch.zeros(1, 1, dtype=F64, requires_grad=True)
        scale = torch.zeros(1, dtype=F64)
        density = p(mean, scale, torch.tensor([5.0], dtype=F64), 1) if p is StudentTPixels else p(mean, scale, 1)
        gradients += torch.autograd.grad(density.log_prob(x).sum(), mean)
    assert gradients[0].item() < 0.2
    assert gradients[1].item() == pytest.approx(50)


def test_the_degrees_of_freedom_start_as_requested_and_stay_above_one() -> None:
    assert likelihood("student_t", dof=7.0).dof.item() == pytest.approx(7, rel=0.01)  # the bound of 1,000 is a soft one
    assert likelihood("student_t", dof=7.0, learned=False).dof.item() == pytest.approx(7, rel=1e-6)
    assert not list(likelihood("student_t", learned=False).parameters())
    module = likelihood("student_t")
    for value, low, high in ((-100.0, 1, 1 + 1e-9), (100.0, 999, 1001.1)):
        with torch.no_grad():
            module.log_excess.fill_(value)
        assert low <= module.dof.item() <= high


def test_counts_match_scipy() -> None:
    log_mean, log_shape = 2 * randn(50, 1), randn(50, 1, seed=1)
    x = torch.randint(0, 40, (50, 1), generator=torch.Generator().manual_seed(0)).double()
    mean, shape = log_mean.exp().numpy(), log_shape.exp().numpy()
    np.testing.assert_allclose(PoissonCounts(log_mean).log_prob_per_dim(x).numpy(), stats.poisson(mean).logpmf(x.numpy()))
    theirs = stats.nbinom(shape, shape / (shape + mean)).logpmf(x.numpy())
    np.testing.assert_allclose(NegativeBinomialCounts(log_mean, log_shape).log_prob_per_dim(x).numpy(), theirs, rtol=1e-10)


@pytest.mark.parametrize("mean", [0.01, 3.0, 500.0])
def test_draws_of_counts_have_the_mean_and_the_variance(mean: float) -> None:
    log_mean, log_shape = torch.full((1,), math.log(mean), dtype=F64), torch.full((1,), math.log(2.0), dtype=F64)
    uniform = torch.rand(20_000, 2, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    for p, noise, variance in (
        (PoissonCounts(log_mean), uniform[:, 0], mean),
        (NegativeBinomialCounts(log_mean, log_shape), uniform, mean + mean**2 / 2),
    ):
        draws = p.rsample(noise)
        assert torch.equal(draws, draws.round())
        assert draws.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(variance / len(draws)))
        assert draws.var().item() == pytest.approx(variance, rel=0.05 if mean > 1 else 0.5)


def test_a_poisson_draw_is_the_quantile() -> None:
    noise = torch.rand(1000, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    for rate in (0.3, 4.0, 1e4):
        draws = PoissonCounts(torch.tensor([math.log(rate)], dtype=F64)).rsample(noise)
        np.testing.assert_array_equal(draws.numpy(), stats.poisson(rate).ppf(noise.numpy()))


def test_many_counts_of_a_large_inverse_dispersion_are_poisson() -> None:
    log_mean = randn(20, 1) + 1
    x = torch.arange(20, dtype=F64).view(-1, 1)
    p = NegativeBinomialCounts(log_mean, torch.full((1,), math.log(1e7), dtype=F64))
    torch.testing.assert_close(p.log_prob(x), PoissonCounts(log_mean).log_prob(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["poisson", "negative_binomial"])
def test_counts_have_finite_gradients_at_extreme_outputs(kind: str) -> None:
    module = likelihood(kind, (3,)).float()
    x = torch.tensor([[0.0, 1.0, 1e5]])
    for value in (1e4, -1e4):
        params = torch.full((1, 3), value, requires_grad=True)
        log_prob = module(params).log_prob(x).sum()
        (gradient,) = torch.autograd.grad(log_prob, params)
        assert log_prob.isfinite()
        assert gradient.isfinite().all()
        assert (module(params).mean <= 5e8).all()


def test_a_mixture_of_one_component_is_that_component() -> None:
    location, log_scale, x = (
        torch.rand(2, 3, 1, 6, dtype=F64),
        randn(3, 1, 6) - 2,
        (255 * torch.rand(3, 6)).round().double() / 255,
    )
    p = DiscretizedLogisticMixturePixels(randn(2, 3, 1, 6), location, log_scale.expand(2, 3, 1, 6), 1)
    one = DiscretizedLogisticPixels(location.squeeze(2), log_scale.squeeze(1), 1)
    noise = torch.rand(2, 3, 6, dtype=F64)
    torch.testing.assert_close(p.log_prob(x), one.log_prob(x))
    torch.testing.assert_close(p.mean, one.mean)
    torch.testing.assert_close(p.rsample(noise), one.rsample(noise))


@pytest.mark.parametrize("kind", ["categorical", "discretized_logistic_mixture"])
def test_the_masses_of_256_levels_sum_to_one_and_have_the_mean(kind: str) -> None:
    module = likelihood(kind, (1,))
    for seed in range(5):
        params = 3 * randn(1, *module.param_shape, seed=seed)
        mass = module(params.expand(256, -1)).log_prob(LEVELS).exp()
        assert mass.sum().item() == pytest.approx(1, abs=1e-12)
        assert (mass * LEVELS[:, 0]).sum().item() == pytest.approx(module(params).mean.item(), abs=1e-4)


def test_a_softmax_gives_each_level_its_own_probability() -> None:
    logits = randn(256, 1)
    p = CategoricalPixels(logits.expand(256, 256, 1), 1)
    torch.testing.assert_close(p.log_prob(LEVELS), torch.log_softmax(logits[:, 0], 0))
    few = CategoricalPixels(logits[:32].expand(256, 32, 1), 1)
    torch.testing.assert_close(few.log_prob(LEVELS), torch.log_softmax(logits[:32, 0], 0).repeat_interleave(8) - math.log(8))


def test_bins_are_drawn_as_often_as_they_are_probable_and_their_levels_evenly() -> None:
    logits = randn(64, 1)
    draws = CategoricalPixels(logits, 1).rsample(torch.rand(200_000, 1, generator=torch.Generator().manual_seed(0), dtype=F64))
    counts = torch.bincount((255 * draws).round().long().flatten(), minlength=256)
    expected = torch.softmax(logits[:, 0], 0).repeat_interleave(4) / 4 * 200_000
    assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("kind", ["heteroscedastic_gaussian", "student_t"])
def test_a_scale_at_its_bound_has_a_gradient_that_leads_back(kind: str) -> None:
    module = likelihood(kind, (1,))
    params = torch.tensor([[0.0, -12.0]], dtype=F64, requires_grad=True)  # exp(-12) is far below one grey level
    p = module(params)
    assert MIN_SCALE <= p.log_scale.exp().item() < 1.01 * MIN_SCALE
    (gradient,) = torch.autograd.grad(p.log_prob(torch.tensor([[0.9]], dtype=F64)).sum(), params)
    assert gradient[0, 1] > 1e-3


def test_the_scales_of_pixels_are_the_second_half_of_the_channels() -> None:
    module = likelihood("heteroscedastic_gaussian", IMAGE, sigma=0.5, link="identity")
    params = randn(3, *module.param_shape)
    p = module(params)
    assert module.param_shape == (4, 5, 4)
    torch.testing.assert_close(p.mean, params[:, :2])
    torch.testing.assert_close(p.log_scale.exp(), MIN_SCALE + 0.5 * params[:, 2:].exp())


def trace_of(module: Any, params: Tensor, x: Tensor) -> Trace:
    p: Any = module(params)
    holder: Any = type("Model", (), {"likelihood": module})()
    return Trace(x, (), p, model=holder)


def test_the_optimal_variance_is_the_mean_squared_error_and_maximises_the_likelihood() -> None:
    module = likelihood("optimal_gaussian", decay=0.0, link="identity")
    params, x = randn(6, *IMAGE), randn(6, *IMAGE, seed=1)
    state = module.next_state(trace_of(module, params, x))
    assert state["variance"].item() == pytest.approx((x - params).square().mean().item())
    values = [
        GaussianPixels(params, 0.5 * (state["variance"] * factor).log()).log_prob(x).sum().item() for factor in (0.99, 1, 1.01)
    ]
    assert max(values) == values[1]


def test_at_the_optimal_variance_the_gradient_is_that_of_the_variance_of_the_batch() -> None:
    module = likelihood("optimal_gaussian", decay=0.0, link="identity")
    params, x = randn(6, *IMAGE).requires_grad_(), randn(6, *IMAGE, seed=1)
    module.variance.copy_(module.next_state(trace_of(module, params, x))["variance"].detach())
    (own,) = torch.autograd.grad(-module(params).log_prob(x).sum(), params)
    (paper,) = torch.autograd.grad(0.5 * x.numel() * (x - params).square().mean().log(), params)
    torch.testing.assert_close(own, paper)


def test_the_optimal_variance_ignores_missing_values_and_averages_over_samples() -> None:
    module = likelihood("optimal_gaussian", decay=0.5, link="identity")
    params, x = randn(3, 6, *IMAGE), randn(6, *IMAGE, seed=1)
    x.view(-1)[::3] = torch.nan
    trace = trace_of(module, params, x)
    trace.decoded = Observed(module(params), 3)
    error = (x - params).square()[:, ~x.isnan()].mean()
    torch.testing.assert_close(module.next_state(trace)["variance"], (0.5 * 0.1 + 0.5 * error).view(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(module.initial_state(trace)["variance"], error.view(1))
    exact = trace_of(module, params, params[0])
    exact.decoded = module(params[:1])
    assert module.initial_state(exact)["variance"].item() == pytest.approx(MIN_SCALE**2)


SMALL = {"encoder.hidden": (16,), "decoder.hidden": (16,), "latent_dim": 2, "device": "cpu", "threads": 1, "pictures": "none"}


def table(path: Path, numbers: Any, **more: Any) -> dict[str, Any]:
    np.save(path / "table.npy", numbers)
    return {"dataset": "array", "dataset.path": str(path / "table.npy"), "batch_size": 32, **SMALL, **more}


def counts(num: int = 600) -> np.ndarray:
    """Return overdispersed counts of two groups of rows."""
    rng = np.random.default_rng(0)
    rates = np.where(np.arange(num)[:, None] % 2, [20, 20, 20, 1, 1, 1], [1, 1, 1, 20, 20, 20])
    return rng.poisson(rates * rng.gamma(2, 0.5, rates.shape))


def test_counts_are_learned_and_bits_are_not_reported(tmp_path: Path) -> None:
    options = table(tmp_path, counts(), epochs=25, lr=1e-2)
    found = {}
    for kind in ("poisson", "negative_binomial"):
        run = vaekit.train(**options, likelihood=kind, out=tmp_path / kind)
        numbers: Any = run.evaluation()
        assert "bits_per_dim" not in numbers
        found[kind] = numbers["elbo"]
        reconstruction = run.vae().reconstruct(torch.tensor(counts(4), dtype=torch.float32))
        assert (reconstruction[0, 3:] > 3 * reconstruction[0, :3]).all()
        assert (reconstruction[1, :3] > 3 * reconstruction[1, 3:]).all()
    assert found["negative_binomial"] > found["poisson"] + 1
    shape = run.vae().likelihood.log_shape
    assert 1 < (10 * shape).exp().mean() < 5  # the gamma distribution of the rates has shape 2


@pytest.mark.parametrize(
    ("numbers", "given"), [(counts() + 0.5, r"\d+\.5"), (counts() - 30.0, "-"), (np.log1p(counts()), "0.69|1.09|1.38")]
)
def test_values_other_than_counts_are_refused_before_training(tmp_path: Path, numbers: Any, given: str) -> None:
    with pytest.raises(DataError, match="scores counts only") as caught:
        vaekit.train(**table(tmp_path, numbers), likelihood="poisson", out=tmp_path / "run")
    assert "in the train split" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_bytes_are_not_counts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="bytes, which are pixels"):
        vaekit.train(**{**SMALL, "likelihood": "poisson", "out": tmp_path / "run"})


def test_the_encoder_sees_the_log_of_counts() -> None:
    given = {"encoder.hidden": (8,), "decoder.hidden": (8,), "likelihood": "poisson", "latent_dim": 2}
    vae = build_vae(build_spec({}, given).model, Facts(data_shape=(6,), value_range=(0.0, 40.0)), seed=0)
    x = torch.tensor(counts(4), dtype=torch.float32)
    torch.testing.assert_close(vae.encode(x).mean, vae.posterior(vae.encoder(torch.log1p(x)), vae).mean)
    x[0, 0] = torch.nan
    assert torch.equal(vae.likelihood.encoder_input(x).isnan(), x.isnan())


def test_missing_counts_are_ignored(tmp_path: Path) -> None:
    numbers = counts().astype(np.float64)
    numbers[::5, 1] = np.nan
    run = vaekit.train(
        **table(tmp_path, numbers, epochs=1, missing="zeros"), likelihood="negative_binomial", out=tmp_path / "run"
    )
    assert math.isfinite(run.metrics()[-1]["validation_elbo"])
