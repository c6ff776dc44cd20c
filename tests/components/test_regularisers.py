"""Losses that regularise codes or the decoder: norms, the Jacobian, and distances of codes from the prior."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import wasserstein_distance_nd
from torch import Tensor, nn
from torch.nn import functional as F

import vaekit
from vaekit import roles
from vaekit.components.losses.sinkhorn import divergence, transport_cost
from vaekit.components.losses.sliced_wasserstein import squared_distance
from vaekit.model.vae import VAE
from vaekit.trace import Trace

F64 = torch.float64


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


class Linear(nn.Module):
    """A linear decoder, whose Jacobian is its weight."""

    in_shape, out_shape = (3,), (1, 4, 2)

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 8)

    def forward(self, z: Tensor) -> Tensor:
        return self.linear(z).unflatten(1, self.out_shape)


@pytest.fixture
def vae() -> VAE:
    torch.manual_seed(0)
    encoder: Any = roles.encoders.get("mlp")((1, 4, 2), (3,), hidden=(5,))
    posterior = roles.posteriors.get("delta")(3)
    return VAE(
        encoder, Linear(), posterior=posterior, likelihood=roles.likelihoods.get("mse")((1, 4, 2), link="identity")
    ).double()


def trace_of(vae: VAE, loss: Any, num: int = 6, seed: int = 0) -> Trace:
    x = random(num, 1, 4, 2, seed=1)
    noise = loss.draw_noise(num, torch.Generator().manual_seed(seed), like=x, model=vae)
    return vae(x, draws={} if noise is None else {loss.kind: noise})


def test_the_norm_of_codes_is_the_energy_of_a_standard_normal_up_to_a_constant(vae: VAE) -> None:
    trace = trace_of(vae, loss := vaekit.losses.get("latent_norm")(weight=0.7))
    log_density = trace.site.log_p
    value = loss.double()(trace)
    torch.testing.assert_close(value - value[0], -0.7 * (log_density - log_density[0]))


def test_the_norm_of_the_decoder_and_its_gradient(vae: VAE) -> None:
    loss = vaekit.losses.get("decoder_norm")(weight=0.5).double()
    value = loss(trace_of(vae, loss))
    assert value.shape == (6,)
    value.mean().backward()
    for parameter in vae.decoder.parameters():
        torch.testing.assert_close(parameter.grad, parameter.detach())  # of 0.5 |θ|²
    assert all(parameter.grad is None for parameter in vae.encoder.parameters())


def test_the_squared_jacobian_of_a_linear_decoder_is_that_of_its_weight(vae: VAE) -> None:
    """|Wᵀ v|² for the drawn v; its mean over draws is |W|²."""
    loss = vaekit.losses.get("gradient_penalty")(weight=2).double()
    trace, weight = trace_of(vae, loss, num=20_000), vae.decoder.linear.weight  # type: ignore[union-attr]
    v = trace.draws["gradient_penalty"].flatten(1)
    exact = 2 * (v @ weight).square().sum(-1)
    value = loss(trace)
    torch.testing.assert_close(value, exact)
    error = value.std() / 20_000**0.5
    assert abs(value.mean() - 2 * weight.square().sum()) < 4 * error
    gradient, expected = (torch.autograd.grad(each.mean(), weight, retain_graph=True)[0] for each in (value, exact))
    torch.testing.assert_close(gradient, expected)


def test_the_sliced_distance_is_the_wasserstein_distance_along_each_line() -> None:
    a, b, lines = random(7, 3), 2 + random(7, 3, seed=1), F.normalize(random(5, 3, seed=2), dim=-1)
    along = [((a @ line).numpy(), (b @ line).numpy()) for line in lines]
    expected = np.mean([((np.sort(x) - np.sort(y)) ** 2).mean() for x, y in along])
    best = []
    for x, y in along:  # the cheapest of all assignments
        cost = (x[:, None] - y) ** 2
        best.append(cost[linear_sum_assignment(cost)].mean())
    assert squared_distance(a, b, lines).item() == pytest.approx(expected, rel=1e-12)
    assert expected == pytest.approx(np.mean(best), rel=1e-12)
    assert squared_distance(a, a[torch.randperm(7)], lines).item() == pytest.approx(0, abs=1e-20)


def test_the_cost_of_transport_becomes_the_wasserstein_distance_as_the_penalty_vanishes() -> None:
    a, b = random(8, 3), 1 + random(8, 3, seed=1)
    cost = torch.cdist(a, b).square().numpy()
    exact = cost[linear_sum_assignment(cost)].mean()
    errors = [abs(transport_cost(a, b, epsilon, 2000).item() - exact) for epsilon in (1.0, 0.1, 0.01)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.03  # at most ε log N
    assert exact >= wasserstein_distance_nd(a.numpy(), b.numpy()) ** 2  # the distance of order 2 is at least that of order 1


def test_the_divergence_is_symmetric_and_zero_for_equal_samples() -> None:
    a, b = random(8, 3), 1 + random(8, 3, seed=1)
    assert divergence(a, b, 0.5, 500).item() == pytest.approx(divergence(b, a, 0.5, 500).item(), rel=1e-6)
    assert divergence(a, a[torch.randperm(8)], 0.5, 500).item() == pytest.approx(0, abs=1e-9)
    assert divergence(a, b, 0.5, 500) > 0.5


def test_for_a_large_penalty_the_divergence_is_the_squared_distance_of_means() -> None:
    a, b = random(8, 3), 1 + random(8, 3, seed=1)
    expected = (a.mean(0) - b.mean(0)).square().sum()
    torch.testing.assert_close(divergence(a, b, 1e6, 20), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("kind", ["sliced_wasserstein", "sinkhorn"])
def test_codes_are_compared_with_draws_from_the_prior(vae: VAE, kind: str) -> None:
    loss = vaekit.losses.get(kind)(weight=1).double()
    trace = trace_of(vae, loss)
    noise = trace.draws[kind]
    y = vae.prior(vae).rsample(noise[:, -3:])
    near, far = (
        loss(Trace(trace.x, (vaekit.trace.Site(z, trace.site.q, trace.site.p),), trace.likelihood, draws=trace.draws))
        for z in (y, y + 2)
    )
    assert near.abs() < 1e-9
    assert far > 1
