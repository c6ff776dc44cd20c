"""Rectified flows, compared with the known velocity of a Gaussian, and the loss that learns it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vaekit
from vaekit import roles
from vaekit.distributions import Delta, VelocityFlow
from vaekit.trace import Site, Trace

F64 = torch.float64
D = 3


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


class OfGaussian(nn.Module):
    """The velocity field between N(0, I) and N(0, s² I): paths scale noise by ``sqrt((1 - t)² + t² s²)``."""

    def __init__(self, deviation: float, error: float = 0.0) -> None:
        super().__init__()
        self.variance, self.error = deviation**2, error

    def forward(self, place: Tensor, time: Tensor, c: Tensor | None = None) -> Tensor:
        t = time[:, None]
        slope = (t * self.variance - (1 - t)) / ((1 - t).square() + t.square() * self.variance)
        return place * (slope + self.error)


def flow(network: nn.Module, steps: int = 20, *, heun: bool = True) -> VelocityFlow:
    return VelocityFlow(network, {}, torch.full((D,), 2.0, dtype=F64), torch.full((D,), 0.5, dtype=F64), None, steps, heun)


@pytest.mark.parametrize(("heun", "order"), [(True, 2), (False, 1)])
def test_paths_end_where_those_of_a_gaussian_do_and_the_error_falls_with_the_order_of_the_solver(heun: bool, order: int) -> None:
    noise = random(4, 5, D)
    exact = 2.0 + 0.5 * 3.0 * noise
    errors = [(flow(OfGaussian(3.0), steps, heun=heun).rsample(noise) - exact).abs().max().item() for steps in (40, 80)]
    assert errors[1] < (0.01 if heun else 0.2)
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.1)


@pytest.mark.parametrize("times", ["uniform", "logit_normal"])
def test_the_loss_is_minimal_at_the_velocity_of_a_gaussian(times: str) -> None:
    """Its value there is the mean variance of ``u_1 - u_0`` given a position: s² / ((1 - t)² + t² s²) per latent."""
    num, deviation = 100_000, 0.5
    loss = roles.losses.get("flow_matching")(times=times)
    loss_noise, codes = random(num, D + 1, seed=1), 2.0 + 0.5 * deviation * random(num, D, seed=2)
    t = torch.sigmoid(loss_noise[:, -1]) if times == "logit_normal" else torch.special.ndtr(loss_noise[:, -1])
    expected = D * (deviation**2 / ((1 - t).square() + t.square() * deviation**2)).mean()

    def value(error: float) -> Tensor:
        p = flow(OfGaussian(deviation, error))
        site = Site(codes, Delta(codes), p, has_density=False)
        result: Tensor = loss(Trace(codes, (site,), draws={"flow_matching": loss_noise}))
        return result

    best = value(0.0)
    assert best.shape == (num,)
    assert best.mean().item() == pytest.approx(expected.item(), abs=5 * best.std().item() / math.sqrt(num))
    for error in (0.1, -0.1):
        gain = value(error) - best
        assert gain.mean() > 5 * gain.std() / math.sqrt(num)


def test_times_are_uniform_or_logit_normal() -> None:
    seen: list[Tensor] = []

    class Watches(nn.Module):
        def forward(self, place: Tensor, time: Tensor, c: Tensor | None = None) -> Tensor:
            seen.append(time)
            return place

    codes = random(10_000, D)
    trace = Trace(codes, (Site(codes, Delta(codes), flow(Watches())),), draws={"flow_matching": random(10_000, D + 1)})
    for times in ("uniform", "logit_normal"):
        roles.losses.get("flow_matching")(times=times)(trace)
    levels = torch.linspace(0.05, 0.95, 19, dtype=F64)
    torch.testing.assert_close(seen[0].quantile(levels), levels, rtol=0, atol=0.02)
    torch.testing.assert_close(torch.logit(seen[1]).quantile(levels), torch.special.ndtri(levels), rtol=0, atol=0.06)


def prior_of(latent_shape: tuple[int, ...], condition_size: int = 0, **options: Any) -> Any:
    torch.manual_seed(0)
    dim = math.prod(latent_shape)
    return roles.priors.get("rectified_flow")(dim, latent_shape, condition_size, **{"width": 8, **options}).double()


def trace_of(codes: Tensor) -> Trace:
    return Trace(codes, (Site(codes, Delta(codes), Delta(codes), has_density=False),))


@pytest.mark.parametrize("latent_shape", [(4,), (2, 3), (2, 3, 2), (2, 3, 2, 2)])
def test_a_rectified_flow_starts_as_the_gaussian_of_the_codes(latent_shape: tuple[int, ...]) -> None:
    prior, dim = prior_of(latent_shape), math.prod(latent_shape)
    codes = 3.0 + random(500, dim) * torch.arange(1, latent_shape[0] + 1).repeat_interleave(dim // latent_shape[0])
    state = prior.initial_state(trace_of(codes))
    prior.load_state_dict(state, strict=False)
    by_channel = codes.view(500, latent_shape[0], -1)
    for name, expected in (("mu", by_channel.mean((0, 2))), ("scale", by_channel.std((0, 2), correction=0))):
        torch.testing.assert_close(state[name].view(latent_shape[0], -1), expected[:, None].expand(-1, dim // latent_shape[0]))
    noise = random(6, dim, seed=1)
    torch.testing.assert_close(prior().rsample(noise), prior.mu + prior.scale * noise, rtol=0.02, atol=0.02)


def test_latents_that_do_not_vary_do_not_divide_by_0() -> None:
    prior = prior_of((4,))
    codes = random(50, 4) * torch.tensor([1.0, 0.0, 2.0, 1.0], dtype=F64)
    for each in (codes, torch.zeros(5, 4, dtype=F64)):
        prior.load_state_dict(prior.initial_state(trace_of(each)), strict=False)
        assert (prior.scale > 0).all()
        assert prior().standardised(each).isfinite().all()


@pytest.mark.parametrize("latent_shape", [(4,), (2, 3, 2)])
def test_each_draw_follows_its_own_condition(latent_shape: tuple[int, ...]) -> None:
    prior = prior_of(latent_shape, 3, steps=2)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * random(*parameter.shape, seed=3))
    c, noise = torch.eye(3, dtype=F64), random(5, 3, math.prod(latent_shape))
    together = prior(None, c).rsample(noise)
    alone = torch.cat([prior(None, c[k : k + 1]).rsample(noise[:, k : k + 1]) for k in range(3)], 1)
    torch.testing.assert_close(together, alone)
    assert not torch.allclose(together, prior(None, c.roll(1, 0)).rsample(noise), rtol=0, atol=1e-3)


def test_a_conditional_flow_is_fitted_to_a_conditional_model(tmp_path: Any) -> None:
    given = {"encoder.hidden": (16,), "decoder.hidden": (16,), "latent_dim": 4, "device": "cpu", "threads": 1, "epochs": 1}
    first = vaekit.train(**given, pictures="none", condition="label", posterior="delta", binarize="none", out=tmp_path / "first")
    second = first.fit_prior("rectified_flow", width=16, epochs=3, lr=3e-3, out=tmp_path / "second")
    values = [record["validation_flow_matching"] for record in second.metrics()]
    assert values[2] < values[0] < 2 * 4  # the sum of the variances of codes and noise, if no velocity is predicted
    vae = second.vae()
    noise = vae.prior.draw_noise(10, torch.Generator().manual_seed(0), like=next(vae.parameters()))[:1].expand(10, -1)
    draws = vae.prior(vae, vae.condition_on(torch.arange(10))).rsample(noise)
    assert (draws - draws[:1])[1:].abs().amax(1).min() > 1e-3
