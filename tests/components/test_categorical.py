"""Categorical latents, alone and with Gaussian ones: probabilities, relaxed samples, and the KL of the discrete variables."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vaekit
from vaekit.components.losses.joint_capacity import JointCapacity
from vaekit.components.posteriors.categorical import Categorical
from vaekit.components.posteriors.joint import Joint
from vaekit.components.priors.categorical import Categorical as CategoricalPrior
from vaekit.components.priors.joint import Joint as JointPrior
from vaekit.distributions import DiagonalGaussian, OneHot, StandardNormal, kl_per_dim
from vaekit.distributions.one_hot import gumbel
from vaekit.errors import UsageError
from vaekit.nn.schedules import LinearSchedule
from vaekit.trace import Site, Trace

F64 = torch.float64
SHAPE = (6, 2)
"""Two positions, each of two variables of three classes."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def posterior_of(**options: Any) -> Categorical:
    return Categorical(12, SHAPE, **{"num_classes": 3, **options}).double().eval()


def every_value(variables: int = 2, classes: int = 3, positions: int = 2) -> Tensor:
    """Return all latents, ``(K^(N P), N K P)``."""
    codes = torch.tensor([*itertools.product(range(classes), repeat=variables * positions)])
    one_hot = torch.nn.functional.one_hot(codes.view(-1, variables, positions), classes)
    return one_hot.movedim(-1, -2).to(F64).flatten(1)


def test_classes_are_the_channels_of_each_position() -> None:
    q, params = posterior_of()(random(5, 12)), random(5, 12).view(5, 6, 2)
    expected = torch.cat([params[:, :3].softmax(1), params[:, 3:].softmax(1)], 1)
    torch.testing.assert_close(q.mean.view(5, 6, 2), expected)
    z = q.rsample(random(7, 5, 12, seed=1)).view(7, 5, 2, 3, 2)
    assert torch.equal(z.sum(-2), torch.ones(7, 5, 2, 2, dtype=F64))
    assert ((z == 0) | (z == 1)).all()


def test_probabilities_of_all_one_hot_vectors_sum_to_one() -> None:
    q, every = posterior_of()(random(5, 12)), every_value()
    probabilities = q.log_prob(every[:, None].expand(-1, 5, -1)).exp()
    torch.testing.assert_close(probabilities.sum(0), torch.ones(5, dtype=F64))
    torch.testing.assert_close((probabilities[..., None] * every[:, None]).sum(0), q.mean)


@pytest.mark.parametrize("learned", [False, True])
def test_the_kl_matches_an_enumeration(learned: bool) -> None:
    q, every = posterior_of()(random(5, 12)), every_value()[:, None].expand(-1, 5, -1)
    prior = CategoricalPrior(12, SHAPE, (3, 3), learned=learned).double()
    if learned:
        with torch.no_grad():
            prior.logits.copy_(random(2, 3, 2, seed=2))
    p = prior()
    log_q = q.log_prob(every)
    kl = kl_per_dim(q, p)
    assert kl is not None
    torch.testing.assert_close(kl.sum(-1), (log_q.exp() * (log_q - p.log_prob(every))).sum(0))
    if not learned:
        entropy = torch.special.entr(q.log_probs.exp()).sum((1, 2, 3))
        torch.testing.assert_close(kl.sum(-1), 4 * math.log(3) - entropy)


@torch.no_grad()
def test_gumbel_noise_draws_classes_by_their_probabilities() -> None:
    num = 40_000
    prior = CategoricalPrior(12, SHAPE, (3, 3), learned=True).double()
    prior.logits.copy_(random(2, 3, 2))
    for density in (posterior_of()(random(1, 12)), prior()):
        z = density.rsample(prior.draw_noise(num, torch.Generator().manual_seed(0), like=torch.zeros((), dtype=F64)))
        expected = density.mean.flatten()
        allowed = 5 * (expected * (1 - expected) / num).sqrt()  # five standard errors
        assert ((z.mean(0) - expected).abs() < allowed).all()


def test_evaluation_draws_the_one_hot_vectors_nearest_to_relaxed_samples() -> None:
    posterior, params, noise = posterior_of(temperature=0.5), random(5, 12), random(5, 12, seed=1)
    hard, soft = posterior(params).rsample(noise), posterior.train()(params).rsample(noise)
    relaxed, one_hot = (each.view(5, 2, 3, 2) for each in (soft, hard))
    torch.testing.assert_close(relaxed.sum(-2), torch.ones(5, 2, 2, dtype=F64))
    assert ((relaxed > 0) & (relaxed < 1)).all()
    assert torch.equal(relaxed.argmax(-2), one_hot.argmax(-2))
    uniform = torch.special.ndtr(noise).view(5, 2, 3, 2)
    gumbel = -torch.log(-torch.log(uniform))
    torch.testing.assert_close(relaxed, torch.softmax((params.view(5, 2, 3, 2).log_softmax(-2) + gumbel) / 0.5, -2))
    cold = posterior_of(temperature=1e-3).train()(params).rsample(noise)
    torch.testing.assert_close(cold, hard, rtol=0, atol=1e-3)


def test_one_hot_samples_have_the_gradient_of_relaxed_ones() -> None:
    params, noise, weights = random(5, 12).requires_grad_(), random(5, 12, seed=1), random(5, 12, seed=2)
    posterior, through = posterior_of(), posterior_of(straight_through=True).train()
    densities = posterior(params), through(params), posterior.train()(params)
    assert torch.equal(densities[1].rsample(noise), densities[0].rsample(noise))
    gradients = [torch.autograd.grad((q.rsample(noise) * weights).sum(), params)[0] for q in densities]
    assert gradients[0].abs().max() > 0
    for gradient in gradients[:2]:
        torch.testing.assert_close(gradient, gradients[2])


def test_gumbel_noise_has_an_accurate_distribution() -> None:
    noise = torch.linspace(-9, 9, 1001, dtype=F64)
    torch.testing.assert_close(gumbel(noise), -torch.log(-torch.special.log_ndtr(noise)))
    single = gumbel(noise.float()).double()
    torch.testing.assert_close(single, gumbel(noise), rtol=1e-5, atol=1e-4)  # float32


def test_noise_of_any_size_gives_finite_samples() -> None:
    q = posterior_of().float().train()(torch.zeros(1, 12))
    for size in (-30.0, 30.0):
        noise = torch.zeros(1, 12)
        noise[0, 0] = size
        assert q.rsample(noise).isfinite().all()


def test_latents_must_be_divisible_into_variables() -> None:
    assert Categorical(20, (20,), num_classes=10).code_sizes == (10, 10)
    assert Categorical(20, (20,)).code_sizes == (20,)
    with pytest.raises(UsageError, match="cannot be divided into variables") as error:
        Categorical(16, (16,), num_classes=10)
    assert error.value.given == "16 latents, 10 classes"
    assert "--latent-dim 20" in str(error.value.remedy)


def test_joint_latents_combine_gaussian_and_categorical_ones() -> None:
    posterior, params = Joint(10, (5, 2), num_classes=3).double().eval(), random(4, 2, 10)
    prior = JointPrior(10, (5, 2), posterior.code_sizes).double()
    q, p = posterior(params), prior()
    gaussian = DiagonalGaussian(params[:, 0, :4], params[:, 1, :4])
    one_hot = OneHot(params[:, 0, 4:].view(4, 1, 3, 2).log_softmax(-2), posterior.temperature, True)
    z = q.rsample(random(7, 4, 10, seed=1))
    first, other = z[..., :4], z[..., 4:]
    assert torch.equal(first, gaussian.rsample(random(7, 4, 10, seed=1)[..., :4]))
    assert torch.equal(other.view(7, 4, 3, 2).sum(2), torch.ones(7, 4, 2, dtype=F64))
    torch.testing.assert_close(q.log_prob(z), gaussian.log_prob(first) + one_hot.log_prob(other))
    normal = StandardNormal(torch.zeros(4, dtype=F64))
    torch.testing.assert_close(p.log_prob(z), normal.log_prob(first) - 2 * math.log(3))
    kl, own = kl_per_dim(q, p), kl_per_dim(gaussian, normal)
    assert kl is not None
    assert own is not None
    entropy = torch.special.entr(one_hot.log_probs.exp()).sum((1, 2, 3))
    torch.testing.assert_close(kl.sum(-1), own.sum(-1) + 2 * math.log(3) - entropy)


@torch.no_grad()
def test_temperature_does_not_change_class_probabilities() -> None:
    prior = JointPrior(10, (5, 2), (3,)).double()
    noise = [
        prior.draw_noise(10, torch.Generator().manual_seed(0), like=torch.zeros((), dtype=F64), temperature=t) for t in (0.1, 1.0)
    ]
    cold, warm = (prior().rsample(each) for each in noise)
    torch.testing.assert_close(cold[:, :4], 0.1 * warm[:, :4])
    assert torch.equal(cold[:, 4:], warm[:, 4:])


@pytest.mark.parametrize(("epoch", "share"), [(0.0, 0.0), (5.0, 0.5), (math.inf, 1.0)])
def test_each_part_of_joint_latents_has_its_own_capacity(epoch: float, share: float) -> None:
    posterior = Joint(10, (10,), num_classes=4).double().eval()
    q, p = posterior(random(6, 2, 10)), JointPrior(10, (10,), (4,)).double()()
    loss = JointCapacity(
        gamma=3,
        capacity=LinearSchedule(start=0, end=7, epochs=10),
        discrete_capacity=LinearSchedule(start=0, end=5, epochs=10),
    ).double()
    trace = Trace(random(6, 1), (Site(q.rsample(random(6, 10)), q, p),), q, epoch=torch.tensor(epoch, dtype=F64))
    continuous, discrete = kl_per_dim(q.continuous, p.continuous), kl_per_dim(q.discrete, p.discrete)
    assert continuous is not None
    assert discrete is not None
    parts = (
        continuous.sum(-1).mean() - 7 * share,
        discrete.sum(-1).mean() - min(5 * share, math.log(4)),
    )  # it carries at most log 4 nats
    torch.testing.assert_close(loss(trace), 3 * (parts[0].abs() + parts[1].abs()))


def test_more_classes_than_latents_are_refused() -> None:
    with pytest.raises(UsageError, match="fewer latents than classes"):
        Joint(4, (4,), num_classes=5)


def test_evaluation_uses_one_hot_vectors(tmp_path: Path) -> None:
    """For a single variable, log p(x) is a sum over its classes, which importance sampling approximates."""
    kinds = np.random.default_rng(0).integers(0, 2, (4, 4, 4))
    np.save(tmp_path / "images.npy", np.tile(255 * kinds, (60, 1, 1)).astype(np.uint8))
    options: dict[str, Any] = {"dataset": "array", "dataset.path": str(tmp_path / "images.npy"), "posterior": "categorical"}
    options |= {"encoder.hidden": (16,), "decoder.hidden": (16,), "latent_dim": 4, "epochs": 4, "batch_size": 16, "lr": 1e-2}
    run = vaekit.train(**options, pictures="none", threads=1, device="cpu", out=tmp_path / "run")
    numbers = run.evaluate(samples=200)
    assert 0 < numbers["kl"] <= math.log(4) + 1e-6
    assert numbers["elbo"] == pytest.approx(-numbers["reconstruction"] - numbers["kl"], rel=1e-6)
    vae: Any = run.vae().eval()
    z = vae.sample_latent(20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(z.sort(-1).values, torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(20, 4))
    images = torch.from_numpy(kinds).float()[:, None]
    with torch.no_grad():
        classes = torch.eye(4)[:, None].expand(4, 4, 4)
        exact = vae.likelihood_of(classes).log_prob(images).logsumexp(0) - math.log(4)
        noise = torch.randn(20_000, 4, 4, generator=torch.Generator().manual_seed(0))
        trace = vae.trace_from(vae.encode(images), noise, images)
    assert (trace.log_weight.logsumexp(0) - math.log(20_000) - exact).abs().max() < 0.1  # nats
    assert (trace.log_likelihood.mean(0) - trace.kl <= exact + 0.1).all()
