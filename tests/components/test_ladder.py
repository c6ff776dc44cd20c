"""Hierarchies of latents: the densities of prior and posteriors, and their validation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributions as D
from torch import nn

import vaekit
from vaekit import roles
from vaekit.components.posteriors.bottom_up import BottomUp
from vaekit.components.priors.ladder import Ladder
from vaekit.distributions import DiagonalGaussian, StandardNormal, kl_per_dim
from vaekit.distributions.ladder import Layers, Merged
from vaekit.errors import UsageError
from vaekit.testing.core import Candidate
from vaekit.testing.densities import arguments_of, noise_of, source_of
from vaekit.testing.draws import Drawn
from vaekit.testing.statistics import NUM_DRAWS, expect_joint_draws, expect_joint_mass, expect_mean
from vaekit.trace import Site

F64 = torch.float64
POSTERIORS = [kind for kind in roles.posteriors.kinds() if roles.posteriors.get(kind).space == "ladder"]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def prior_of(latent_dim: int, top: int | None = None, layers: int = 2) -> Ladder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        prior = Ladder(latent_dim, layers=layers, top=top, hidden=(16, 8)).double()
    with torch.no_grad():
        for *_, last in prior.networks:
            last.weight.mul_(3)  # so that layers depend on those above
    return prior


def posterior_of(prior: Ladder, num: int) -> Layers:
    p = prior()
    parts = zip(p.split(random(num, prior.latent_dim)), p.split(random(num, prior.latent_dim, seed=1)), strict=True)
    first, *others = (DiagonalGaussian(*each) for each in parts)
    return Layers(p.sizes, first, tuple(map(Merged, others, p.others)))


def test_the_joint_density_of_the_prior_matches_torch() -> None:
    prior = prior_of(5, top=3)
    first, second, last = prior.networks[0]
    z = random(4, 6, 5)
    mu, logvar = nn.Sequential(first, nn.SiLU(), second, nn.SiLU(), last)(z[..., :3]).split(2, -1)
    top = D.Independent(D.Normal(torch.zeros(3, dtype=F64), 1.0), 1)
    bottom = D.Independent(D.Normal(mu, (0.5 * logvar).exp()), 1)
    torch.testing.assert_close(prior().log_prob(z), top.log_prob(z[..., :3]) + bottom.log_prob(z[..., 3:]))
    assert prior().log_prob(z).shape == (4, 6)


def test_the_posterior_of_the_bottom_is_the_normalised_product_of_two_gaussians() -> None:
    q = posterior_of(prior_of(5, top=3), 6)
    (bottom,) = q.others
    assert isinstance(bottom, Merged)
    z2, z1 = q.split(random(7, 6, 5, seed=2))
    z2 = z2[:1].expand_as(z2)
    product = bottom.evidence.log_prob(z1) + bottom.prior.given(z2).log_prob(z1)
    normaliser = product - q.others[0].given(z2).log_prob(z1)
    torch.testing.assert_close(normaliser, normaliser[:1].expand_as(normaliser))
    torch.testing.assert_close(q.log_prob(torch.cat([z2, z1], -1)), q.first.log_prob(z2) + q.others[0].given(z2).log_prob(z1))


@pytest.mark.parametrize("upward", [False, True])
def test_many_layers_are_a_chain_of_torchs_densities(upward: bool) -> None:
    """Each layer depends on all layers drawn before it, from either end."""
    prior = prior_of(9, top=2, layers=4)
    p = prior()
    if upward:
        p = p._replace(sizes=p.sizes[::-1], upward=True)
    z = random(3, 6, 9)
    parts = p.split(z)[::-1] if upward else p.split(z)
    assert [part.shape[-1] for part in parts] == [2, 2, 2, 3]
    terms = [D.Normal(torch.zeros(2, dtype=F64), 1.0).log_prob(parts[0])]
    for num, network in enumerate(prior.networks, 1):
        first, second, last = network
        mu, logvar = nn.Sequential(first, nn.SiLU(), second, nn.SiLU(), last)(torch.cat(parts[:num], -1)).chunk(2, -1)
        terms.append(D.Normal(mu, (0.5 * logvar).exp()).log_prob(parts[num]))
    torch.testing.assert_close(p.conditional_log_probs(z), torch.cat(terms[::-1] if upward else terms, -1))
    torch.testing.assert_close(p.log_prob(z), torch.cat(terms, -1).sum(-1))
    noise = random(3, 6, 9, seed=1)
    z = p.rsample(noise)  # the density of samples is that of noise up to the volume of each conditional
    jacobian = torch.autograd.functional.jacobian(lambda e: p.rsample(e[None, None])[0, 0], noise[0, 0])
    volume = torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(p.log_prob(z)[0, 0], D.Normal(0.0, 1.0).log_prob(noise[0, 0]).sum() - volume)


@pytest.mark.parametrize("upward", [False, True])
def test_the_mean_is_that_of_each_layer_given_the_means_before_it(upward: bool) -> None:
    p = prior_of(9, layers=4)()._replace(upward=upward)
    p = p._replace(sizes=p.sizes[::-1] if upward else p.sizes)
    torch.testing.assert_close(p.mean, p.rsample(torch.zeros(9, dtype=F64)))


def test_a_certain_encoder_overrides_the_prior_and_an_uncertain_one_keeps_it() -> None:
    prior, z2 = prior_of(4), random(6, 2)
    p = prior().others[0].given(z2)
    certain, ignorant = (
        Merged(DiagonalGaussian(random(6, 2), torch.full((6, 2), v, dtype=F64)), prior().others[0]) for v in (-60, 60)
    )
    torch.testing.assert_close(certain.given(z2).mu, random(6, 2))
    for mine, theirs in zip(ignorant.given(z2), p, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(("role", "kind"), [("prior", "ladder"), *(("posterior", kind) for kind in POSTERIORS)])
@torch.no_grad()
def test_draws_follow_densities_that_integrate_to_one(role: str, kind: str) -> None:
    """As the conformance kit checks for densities on the real space only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        source = source_of(Candidate(role, kind), 2)
        density = source(*arguments_of(source, 1))
    noise = noise_of(source, *((NUM_DRAWS, 1) if role == "posterior" else (NUM_DRAWS,)))
    drawn = Drawn(role, density, role == "posterior", density.rsample(noise).view(NUM_DRAWS, 2))
    expect_joint_mass(drawn.draws, drawn.log_prob, f"the density of the {role}")
    expect_joint_draws(drawn.draws, drawn.log_prob, f"draws of the {role}, against the density")


@torch.no_grad()
def test_the_sampled_kl_is_that_of_both_layers() -> None:
    """By the chain rule, it is KL(q(z2) || p(z2)) plus the mean of KL(q(z1|z2) || p(z1|z2)) over z2, each in closed form."""
    prior = prior_of(5, top=2)
    q, p = posterior_of(prior, 3), prior()
    z = q.rsample(random(50_000, 3, 5, seed=3))
    z2, _ = q.split(q.rsample(random(50_000, 3, 5, seed=4)))
    top, bottom = kl_per_dim(q.first, p.first), kl_per_dim(q.others[0].given(z2), p.others[0].given(z2))
    assert top is not None
    assert bottom is not None
    sampled = q.log_prob(z) - p.log_prob(z)
    expect_mean(sampled - bottom.sum(-1), top.sum(-1), "the sampled KL, less that of the bottom layer, against that of the top")
    torch.testing.assert_close(Site(z, q, p).kl, sampled.mean(0))


@pytest.mark.parametrize(
    ("latent_dim", "layers", "top", "expected"),
    [
        (1, 2, None, [1]),
        (5, 2, None, [2, 3]),
        (5, 2, 4, [4, 1]),
        (9, 4, None, [2, 2, 2, 3]),
        (9, 3, 1, [1, 4, 4]),
        (2, 4, None, [1, 1]),
    ],
)
def test_layers_are_equal_and_none_is_empty(latent_dim: int, layers: int, top: int | None, expected: list[int]) -> None:
    p = Ladder(latent_dim, layers=layers, top=top)()
    assert [part.shape[-1] for part in p.split(random(latent_dim))] == expected


def test_one_latent_is_a_standard_normal() -> None:
    z, p = random(6, 1), Ladder(1).double()()
    torch.testing.assert_close(p.log_prob(z), StandardNormal(torch.zeros(1, dtype=F64)).log_prob(z))
    assert p.mean.shape == (1,)


def test_a_bottom_layer_without_latents_is_refused() -> None:
    with pytest.raises(UsageError, match="no latents left for its bottom layer") as error:
        Ladder(4, top=4)
    assert error.value.given == "4 latents in the top layer, of 4 in all"


def test_the_posterior_refuses_a_model_with_another_prior() -> None:
    encoder, decoder = roles.encoders.get("mlp")((1, 4, 3), (2, 4)), roles.decoders.get("mlp")((4,), (1, 4, 3))
    posterior = roles.posteriors.get("ladder")(4)
    with pytest.raises(UsageError, match="depends on p") as error:
        vaekit.VAE(encoder, decoder, posterior=posterior)(torch.rand(2, 1, 4, 3))
    assert error.value.given == "the prior 'normal'"
    with pytest.raises(UsageError, match="depends on p"):
        posterior(torch.zeros(2, 2, 4))


@torch.no_grad()
def test_the_kl_of_the_latents_sums_to_the_kl_layer_by_layer() -> None:
    prior = prior_of(5)
    q, p = posterior_of(prior, 3), prior()
    z = q.rsample(random(4, 3, 5))
    site = Site(z, q, p)
    kl = site.kl_per_latent
    assert kl is not None
    torch.testing.assert_close(kl.sum(-1), (q.log_prob(z) - p.log_prob(z)).mean(0), rtol=1e-10, atol=1e-10)
    top = q.first.log_prob(z[..., :2]) - p.first.log_prob(z[..., :2])
    torch.testing.assert_close(kl[:, :2].sum(-1), top.mean(0), rtol=1e-10, atol=1e-10)


def test_evaluation_reports_the_kl_of_each_latent(tmp_path: Path) -> None:
    options = {"posterior": "ladder", "latent_dim": 5, "epochs": 1, "pictures": "none", "threads": 1, "device": "cpu"}
    numbers = vaekit.train(**options, out=tmp_path / "run").evaluation()
    assert numbers is not None
    assert len(numbers["kl_per_latent"]) == 5
    assert sum(numbers["kl_per_latent"]) == pytest.approx(numbers["kl"], rel=1e-4)


def test_bottom_up_inference_sees_the_example_through_the_bottom_layer_only() -> None:
    """As in figure 2 of Burda et al. (2016): q(z1|x) q(z2|z1)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        posterior = BottomUp(5, top=2, hidden=(8,)).double()
    assert posterior.param_shape == (2, 3)
    params, z = random(6, 2, 3), random(4, 6, 5, seed=1)
    q = posterior(params)
    first, last = posterior.networks[0]
    mu, logvar = nn.Sequential(first, nn.SiLU(), last)(z[..., 2:]).chunk(2, -1)
    bottom = D.Normal(params[:, 0], (0.5 * params[:, 1]).exp()).log_prob(z[..., 2:])
    top = D.Normal(mu, (0.5 * logvar).exp()).log_prob(z[..., :2])
    torch.testing.assert_close(q.conditional_log_probs(z), torch.cat([top, bottom], -1))


def test_posterior_and_prior_must_have_the_same_layers() -> None:
    encoder, decoder = roles.encoders.get("mlp")((1, 4, 3), (2, 2)), roles.decoders.get("mlp")((4,), (1, 4, 3))
    model = vaekit.VAE(encoder, decoder, posterior=BottomUp(4), prior=Ladder(4, top=1))
    with pytest.raises(UsageError, match="have different layers") as error:
        model(torch.rand(2, 1, 4, 3))
    assert error.value.given == "layers of (1, 3) latents in the prior"
    model = vaekit.VAE(encoder, decoder, posterior=BottomUp(4))
    with pytest.raises(UsageError, match="have different layers") as error:
        model(torch.rand(2, 1, 4, 3))
    assert error.value.given == "the prior 'normal'"
