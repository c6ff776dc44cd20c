"""Optimal-transport distances between codes and prior samples: sliced Wasserstein and Sinkhorn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import wasserstein_distance
from torch import Tensor

import vaekit
from vaekit import roles
from vaekit.components.losses.sinkhorn import sinkhorn_divergence, squared_distances, transport
from vaekit.components.losses.sliced_wasserstein import sliced_wasserstein
from vaekit.errors import UsageError

F64 = torch.float64
KINDS = ("sliced_wasserstein", "sinkhorn")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def unit(*shape: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(random(*shape, seed=seed), dim=-1)


def assignment(z: Tensor, y: Tensor) -> float:
    """Return SciPy's exact optimal transport cost between equally weighted points."""
    cost = squared_distances(z, y).numpy()
    return float(cost[linear_sum_assignment(cost)].mean())


def model_of(prior: str, latent_dim: int = 3, samples: int | None = None) -> vaekit.VAE:
    spec = vaekit.priors.spec(prior)(kind=prior)
    built = vaekit.priors.build(spec, latent_dim=latent_dim, latent_shape=(latent_dim,), data_shape=(1, 4, 4), code_sizes=())
    encoder = vaekit.encoders.get("mlp")((1, 4, 4), (2, latent_dim), hidden=(8,))
    decoder = vaekit.decoders.get("mlp")((latent_dim,), (1, 4, 4), hidden=(8,))
    return vaekit.VAE(encoder, decoder, prior=built).double()


def loss_of(kind: str, **options: Any) -> Any:
    return roles.losses.get(kind)(**options).double()


def test_a_slice_is_the_exact_distance_on_a_line() -> None:
    z, y, directions = 2 * random(20, 3) + 1, random(20, 3, seed=1), unit(7, 3, seed=2)
    costs = [assignment((z @ u)[:, None], (y @ u)[:, None]) for u in directions]
    assert sliced_wasserstein(z, y, directions).item() == pytest.approx(np.mean(costs), rel=1e-12)
    along = wasserstein_distance((z @ directions[0]).numpy(), (y @ directions[0]).numpy())  # that of |x - y|, not of its square
    assert along**2 <= costs[0]


def test_a_distance_of_shifted_codes_is_the_squared_shift() -> None:
    """On average over directions, a slice has 1/D of it."""
    z, shift = random(50, 4), torch.tensor([1.0, -2.0, 0.0, 0.5], dtype=F64)
    values = 4 * torch.stack([sliced_wasserstein(z, z + shift, unit(1, 4, seed=seed)) for seed in range(4000)])
    assert abs(values.mean() - shift.square().sum()) < 4 * values.std() / len(values) ** 0.5
    sinkhorn = sinkhorn_divergence(z, z + shift, torch.tensor(1.0, dtype=F64), 500)
    assert sinkhorn.item() == pytest.approx(shift.square().sum().item(), rel=1e-6)  # ε blurs both equally


def test_equal_samples_in_any_order_have_distance_zero() -> None:
    z = random(30, 3)
    y = z[torch.randperm(30, generator=torch.Generator().manual_seed(0))]
    assert sliced_wasserstein(z, y, unit(5, 3)).item() == 0
    assert sinkhorn_divergence(z, y, torch.tensor(0.3, dtype=F64), 20).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("num_iterations", [3, 50])
def test_the_sinkhorn_divergence_is_symmetric_at_any_number_of_iterations(num_iterations: int) -> None:
    z, y, epsilon = 2 * random(20, 3) + 1, random(20, 3, seed=1), torch.tensor(0.1, dtype=F64)
    there, back = sinkhorn_divergence(z, y, epsilon, num_iterations), sinkhorn_divergence(y, z, epsilon, num_iterations)
    assert there.item() == pytest.approx(back.item(), rel=1e-12)


def test_sinkhorn_is_the_optimal_assignment_at_a_small_epsilon() -> None:
    z, y = 1.5 * random(32, 3) + 0.5, random(32, 3, seed=1)
    exact = assignment(z, y)
    errors = []
    for epsilon in (3.0, 0.3, 0.03, 0.003):
        value = sinkhorn_divergence(z, y, torch.tensor(epsilon, dtype=F64), 2000)
        errors.append(abs(value.item() - exact) / exact)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3  # the entropy of a plan of 32 points adds at most ε log 32, 0.01, which debiasing removes


def test_transport_has_the_value_of_the_plan_that_an_independent_solver_finds() -> None:
    """Alternating scaling of a kernel, the original form of the algorithm."""
    cost, epsilon = squared_distances(random(12, 2), random(12, 2, seed=1)), 0.5
    kernel, a, b = torch.exp(-cost / epsilon), torch.ones(12, dtype=F64), torch.ones(12, dtype=F64)
    for _ in range(5000):
        a = 1 / (12 * kernel @ b)
        b = 1 / (12 * kernel.T @ a)
    plan = a[:, None] * kernel * b
    expected = (plan * cost).sum() + epsilon * (plan * (144 * plan).log()).sum()
    value = transport(cost.requires_grad_(), torch.tensor(epsilon, dtype=F64), 2000)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=0)
    (gradient,) = torch.autograd.grad(value, cost)
    torch.testing.assert_close(gradient, plan, rtol=1e-6, atol=1e-12)


def test_the_default_number_of_iterations_is_within_a_percent_of_convergence() -> None:
    loss = loss_of("sinkhorn")
    z, y = 1.5 * random(128, 10) + 0.5, random(128, 10, seed=1)
    value, limit = (sinkhorn_divergence(z, y, 10 * loss.epsilon, num) for num in (loss.num_iterations, 2000))
    assert value.item() == pytest.approx(limit.item(), rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_descent_moves_codes_onto_the_draws(kind: str) -> None:
    y, z = random(40, 2, seed=1), (3 + 0.1 * random(40, 2)).requires_grad_()
    start = assignment(z.detach(), y)
    for step in range(200):
        if kind == "sinkhorn":
            value = sinkhorn_divergence(z, y, torch.tensor(0.1, dtype=F64), 20)
        else:
            value = 2 * sliced_wasserstein(z, y, unit(10, 2, seed=step))
        (gradient,) = torch.autograd.grad(value, z)
        z = (z - 0.2 * len(y) * gradient).detach().requires_grad_()
    assert assignment(z.detach(), y) < 0.02 * start


@pytest.mark.parametrize("prior", ["normal", "mixture", "vamp"])
@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_compared_with_draws_from_the_prior_of_the_model(kind: str, prior: str) -> None:
    torch.manual_seed(0)
    vae, x = model_of(prior), torch.rand(6, 1, 4, 4, dtype=F64)
    loss = loss_of(kind, weight=3.0)
    noise = loss.draw_noise(6, torch.Generator().manual_seed(0), like=x, model=vae)
    trace = vae(x, draws={kind: noise})
    y = vae.prior(vae).rsample(vae.prior.draw_noise(6, torch.Generator().manual_seed(0), like=x))
    if kind == "sinkhorn":
        expected = sinkhorn_divergence(trace.z, y, torch.tensor(0.3, dtype=F64), 20)
    else:
        directions = noise[:, -27:].reshape(-1, 3)[:50]  # 9 for each of 6 examples
        expected = 3 * sliced_wasserstein(trace.z, y, torch.nn.functional.normalize(directions, dim=-1))
    value = loss(trace)
    torch.testing.assert_close(value, 3 * expected)
    value.backward()
    assert all(parameter.grad is not None for name, parameter in vae.prior.named_parameters() if name != "logits")


@pytest.mark.parametrize("kind", KINDS)
def test_several_samples_of_each_code_are_compared_one_by_one(kind: str) -> None:
    torch.manual_seed(0)
    vae, x, noise = model_of("normal"), torch.rand(6, 1, 4, 4, dtype=F64), random(4, 6, 3)
    loss = loss_of(kind)
    draws = {kind: loss.draw_noise(6, torch.Generator().manual_seed(0), like=x, model=vae)}
    each = torch.stack([loss(vae(x, one, draws=draws)) for one in noise])
    torch.testing.assert_close(loss(vae(x, noise, draws=draws)), each.mean())


@pytest.mark.parametrize("num", [1, 7, 50, 200])
def test_the_number_of_directions_does_not_depend_on_the_batch(num: int) -> None:
    vae, x, loss = model_of("mixture"), torch.rand(num, 1, 4, 4, dtype=F64), loss_of("sliced_wasserstein", num_projections=20)
    noise = loss.draw_noise(num, like=x, model=vae)
    assert noise.shape == (num, 4 + 3 * -(-20 // num))
    assert loss(vae(x, draws={"sliced_wasserstein": noise})).isfinite()


@pytest.mark.parametrize("kind", KINDS)
def test_a_trace_without_draws_is_refused_with_a_remedy(kind: str) -> None:
    with pytest.raises(UsageError, match=r"the trace has none(.|\n)*draws=\{\"" + kind):
        loss_of(kind)(model_of("normal")(torch.rand(2, 1, 4, 4, dtype=F64)))
