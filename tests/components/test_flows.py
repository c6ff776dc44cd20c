"""Flow posteriors, the full-covariance Gaussian, and uses that only need the densities of samples."""

from __future__ import annotations

import math

import pytest
import torch
from small import small
from torch import Tensor

import vaekit
from vaekit import roles
from vaekit.data import Batch
from vaekit.distributions import DiagonalGaussian, FullGaussian, StandardNormal, kl_per_dim
from vaekit.distributions.flows import Flow, GatedStep, PlanarStep, RadialStep
from vaekit.errors import UsageError
from vaekit.evaluation.importance import log_likelihood
from vaekit.model.objective import Inputs, Objective
from vaekit.specs.options import build_spec
from vaekit.streams import Streams
from vaekit.trace import Site

F64 = torch.float64
FLOWS = ("planar", "radial", "iaf")
D = 4


def random(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def planar(scale: float, num: int = 1) -> PlanarStep:
    return PlanarStep(*(random(num, size, scale=scale, seed=seed) for seed, size in enumerate((D, D, 1))))


def radial(scale: float, num: int = 1) -> RadialStep:
    return RadialStep(*(random(num, size, scale=scale, seed=seed) for seed, size in enumerate((D, 1, 1))))


def iaf(transforms: int = 1, hidden: tuple[int, ...] = (16,), latent_dim: int = D) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return roles.posteriors.get("iaf")(latent_dim, transforms=transforms, hidden=hidden, context=5).double()


def jacobian(step: PlanarStep | RadialStep | GatedStep, z: Tensor) -> Tensor:
    return torch.autograd.functional.jacobian(lambda each: step(each)[0], z)


@pytest.mark.parametrize("make", [planar, radial])
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_a_step_has_the_log_determinant_of_its_jacobian_which_is_positive(make: object, scale: float) -> None:
    for seed in range(10):
        step, z = make(scale), random(D, seed=100 + seed)  # type: ignore[operator]
        matrix = jacobian(step, z[None]).view(D, D)
        sign, log_det = torch.linalg.slogdet(matrix)
        assert sign == 1
        # autograd's determinant loses digits if a direction is compressed a millionfold
        torch.testing.assert_close(step(z[None])[1].squeeze(), log_det, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [0.5, 3.0, 30.0])
def test_a_planar_step_is_invertible_along_its_normal(scale: float) -> None:
    """w·f(z) is an increasing function of w·z alone: the condition of appendix A.1 of the paper."""
    step = planar(scale)
    w = step.w / step.w.norm()
    z = torch.linspace(-10, 10, 20_001, dtype=F64)[:, None] * w + random(D, seed=7)
    heights = (step(z)[0] * w).sum(-1)
    assert (heights.diff() > 0).all()
    aside = random(20_001, D, seed=8)
    aside = aside - (aside * w).sum(-1, keepdim=True) * w
    torch.testing.assert_close((step(z + aside)[0] * w).sum(-1), heights, rtol=1e-9, atol=1e-9)


def test_a_planar_step_against_its_normal_would_fold_without_the_constraint() -> None:
    w = random(1, D)
    step = PlanarStep(-3 * w / w.square().sum(), w, torch.zeros(1, 1, dtype=F64))  # w·u = -3: w·z - 3 tanh(w·z) has a fold
    z = torch.linspace(-2, 2, 101, dtype=F64)[:, None] * w / w.square().sum()
    bare = z + step.u * torch.tanh((step.w * z).sum(-1, keepdim=True))
    assert ((bare * w).sum(-1).diff() < 0).any()
    assert ((step(z)[0] * w).sum(-1).diff() > 0).all()


@pytest.mark.parametrize("scale", [0.5, 3.0, 30.0])
def test_a_radial_step_is_invertible_along_its_radii(scale: float) -> None:
    """Distances from the centre are mapped by an increasing function, in the same direction."""
    step = radial(scale)
    radii = torch.linspace(0, 20, 2001, dtype=F64)
    direction = random(D, seed=7)
    direction = direction / direction.norm()
    moved = step(step.centre + radii[:, None] * direction)[0] - step.centre
    torch.testing.assert_close(moved, moved.norm(dim=-1, keepdim=True) * direction, rtol=1e-9, atol=1e-9)
    assert (moved.norm(dim=-1).diff() > 0).all()


@pytest.mark.parametrize("value", [1e4, -1e4])
def test_steps_are_finite_where_the_direction_opposes_the_normal(value: float) -> None:
    opposite = torch.full((1, D), value)
    z, log_det = PlanarStep(-opposite, opposite, torch.zeros(1, 1))(torch.zeros(1, D))
    assert z.isfinite().all()
    assert log_det.isfinite().all()
    z, log_det = RadialStep(torch.zeros(1, D), torch.full((1, 1), value), torch.full((1, 1), -value))(torch.zeros(1, D))
    assert z.isfinite().all()
    assert log_det.isfinite().all()


@pytest.mark.parametrize("hidden", [(16,), (7, 9), (3,)])
@pytest.mark.parametrize("latent_dim", [1, 4])
def test_transforms_of_iaf_have_alternating_triangular_jacobians(hidden: tuple[int, ...], latent_dim: int) -> None:
    posterior = iaf(2, hidden, latent_dim)
    first, second = posterior(random(1, *posterior.param_shape)).steps
    z = random(1, latent_dim, seed=1)
    below, above = jacobian(first, z).view(latent_dim, latent_dim), jacobian(second, z).view(latent_dim, latent_dim)
    assert torch.equal(below, below.tril())
    assert torch.equal(above, above.triu())
    assert (below.diagonal() > 0).all()
    if min(hidden) >= latent_dim:
        assert (below.tril() != 0).sum() == latent_dim * (latent_dim + 1) // 2
        assert (above.triu() != 0).sum() == latent_dim * (latent_dim + 1) // 2
    for step, matrix in ((first, below), (second, above)):
        torch.testing.assert_close(step(z)[1].squeeze(), matrix.diagonal().log().sum(), rtol=1e-10, atol=1e-12)


def test_every_latent_of_iaf_sees_the_context() -> None:
    posterior = iaf()
    (size,) = posterior.param_shape
    params, noise = random(1, size), random(1, D, seed=1)
    matrix = torch.autograd.functional.jacobian(lambda each: posterior(each).rsample(noise), params).view(D, size)
    assert (matrix[:, 2 * D :].abs().sum(-1) > 0).all()


def test_a_transform_of_iaf_is_equation_14() -> None:
    posterior, noise = iaf(), random(6, D, seed=1)
    q = posterior(random(6, *posterior.param_shape))
    (step,) = q.steps
    z, h = q.base.rsample(noise), q.base.rsample(noise)
    for number, (weight, bias) in enumerate(zip(step.layers, step.biases, strict=True)):
        h = (torch.nn.functional.silu(h) if number else h) @ weight.T + bias
    m, s = h[:, :D], h[:, D:]
    gate = torch.sigmoid(s)
    drawn, log_q = q.rsample_and_log_prob(noise)
    torch.testing.assert_close(drawn, gate * z + (1 - gate) * m)
    scale = torch.exp(0.5 * q.base.logvar)
    torch.testing.assert_close(log_q, -(noise.square() / 2 + math.log(2 * math.pi) / 2 + scale.log() + gate.log()).sum(-1))


def near_identity(kind: str) -> tuple[torch.nn.Module, Tensor]:
    """Return a posterior and encoder outputs for which its steps are the identity."""
    posterior = iaf() if kind == "iaf" else roles.posteriors.get(kind)(D)
    if kind == "iaf":
        with torch.no_grad():
            last = posterior.networks[0].layers[-1]
            last.weight.zero_()
            last.bias.fill_(50.0)  # sigmoid(50) is 1 in float64
    params = random(6, *posterior.param_shape)
    if kind != "iaf":
        params[:, 2 * D :] = 0
    return posterior, params


@pytest.mark.parametrize("kind", FLOWS)
def test_near_the_identity_a_flow_equals_its_gaussian(kind: str) -> None:
    posterior, params = near_identity(kind)
    q, noise = posterior(params), random(3, 6, D, seed=2)
    z, log_q = q.rsample_and_log_prob(noise)
    # the smallest slope, 1e-6, and the biases of 50 shift what they bound by no more than that
    torch.testing.assert_close(z, q.base.rsample(noise), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(log_q, q.base.log_prob(z), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(q.mean, q.base.mu, rtol=1e-9, atol=1e-9)
    site = Site.drawn(q, noise, StandardNormal(torch.zeros(D, dtype=F64)))
    plain = Site.drawn(DiagonalGaussian(*q.base), noise, site.p)
    torch.testing.assert_close(site.kl, (plain.log_q - plain.log_p).mean(0))


def test_a_full_gaussian_matches_torch() -> None:
    posterior = roles.posteriors.get("full_gaussian")(D)
    q, noise = posterior(random(6, *posterior.param_shape)), random(3, 6, D, seed=1)
    theirs = torch.distributions.MultivariateNormal(q.mu, scale_tril=torch.exp(0.5 * q.logvar)[..., None] * q.unit)
    z, log_q = q.rsample_and_log_prob(noise)
    torch.testing.assert_close(z, q.mu + (theirs.scale_tril @ noise[..., None]).squeeze(-1))
    torch.testing.assert_close(q.log_prob(z), theirs.log_prob(z))
    torch.testing.assert_close(log_q, theirs.log_prob(z))
    torch.testing.assert_close(q.variance, theirs.variance)
    p = torch.distributions.MultivariateNormal(torch.zeros(D, dtype=F64), torch.eye(D, dtype=F64))
    kl = kl_per_dim(q, StandardNormal(torch.zeros(D, dtype=F64)))
    assert kl is not None
    torch.testing.assert_close(kl.sum(-1), torch.distributions.kl_divergence(theirs, p))


def test_the_kl_of_a_full_gaussian_is_that_of_each_latent_given_those_before_it() -> None:
    posterior, num = roles.posteriors.get("full_gaussian")(D), 200_000
    q, p = posterior(random(2, *posterior.param_shape, scale=0.5)), StandardNormal(torch.zeros(D, dtype=F64))
    kl, z = kl_per_dim(q, p), q.rsample(random(num, 2, D, seed=1))
    assert kl is not None
    terms = q.conditional_log_probs(z) - p.log_prob_per_dim(z)
    error = terms.std(0) / math.sqrt(num)
    assert ((terms.mean(0) - kl).abs() < 5 * error).all()
    assert (kl >= 0).all()


def test_a_full_gaussian_without_correlations_is_a_diagonal_one() -> None:
    mu, logvar = random(6, D), random(6, D, seed=1)
    q, other = FullGaussian(mu, logvar, torch.eye(D, dtype=F64).expand(6, D, D)), DiagonalGaussian(mu, logvar)
    z = random(3, 6, D, seed=2)
    torch.testing.assert_close(q.conditional_log_probs(z), other.log_prob_per_dim(z))
    p = StandardNormal(torch.zeros(D, dtype=F64))
    torch.testing.assert_close(kl_per_dim(q, p), kl_per_dim(other, p))


# Uses that only need the density of samples


def vae_of(posterior: str) -> vaekit.VAE:
    torch.manual_seed(0)
    built = roles.posteriors.get(posterior)(2, **small(roles.posteriors, posterior))
    encoder = vaekit.encoders.get("mlp")((1, 4, 3), built.param_shape, hidden=(8,))
    decoder = vaekit.decoders.get("mlp")((2,), (1, 4, 3), hidden=(8,))
    return vaekit.VAE(encoder, decoder, posterior=built).double()


@pytest.mark.parametrize("kind", FLOWS)
def test_importance_weights_of_a_flow_estimate_the_same_likelihood_as_those_of_the_prior(kind: str) -> None:
    vae, num = vae_of(kind), 20_000
    x = random(3, 1, 4, 3).gt(0).double()
    log_w = vae.trace_from(vae.encode(x), random(num, 3, 2, seed=3), x).log_weight
    exact = vae.likelihood_of(random(num, 1, 2, seed=4).expand(num, 3, 2)).log_prob(x)
    estimate, reference = log_w.exp().mean(0), exact.exp().mean(0)
    error = (log_w.exp().var(0) / num + exact.exp().var(0) / num).sqrt()
    assert ((estimate - reference).abs() < 5 * error).all()
    results = log_likelihood(vae, [Batch(x, x, None, 0)], Streams(0), samples=num)
    assert results["log_likelihood"] == pytest.approx(reference.log().mean().item(), abs=0.05)


@pytest.mark.parametrize("kind", FLOWS)
@pytest.mark.parametrize("loss", ["kl", "beta", "capacity", "factor", "iwae", "dip", "geco"])
def test_losses_that_see_draws_only_train_a_flow(kind: str, loss: str) -> None:
    model = build_spec({}, {"posterior": kind, "loss": [loss] if loss != "dip" else ["dip", "kl"]}).model
    assert loss in {each.kind for each in model.loss}
    vae = vae_of(kind)
    built = roles.losses.build(roles.losses.spec(loss)(kind=loss), latent_dim=2, data_shape=(1, 4, 3)).double()
    losses = {loss: built} if loss != "dip" else {"dip": built, "kl": roles.losses.get("kl")()}
    objective = Objective(vae, losses, num_data=10)
    x = torch.rand(6, 1, 4, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    noise = random(*objective.samples, 6, 2, seed=3)
    result = objective(Inputs(x, x, noise, torch.tensor(math.inf, dtype=F64)))
    result.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.encoder.parameters())
    assert any(p.grad.any() for p in vae.encoder.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("options", "lacking"),
    [
        ({"loss": ["iwae"], "iwae.dreg": "true"}, "loss 'iwae' needs log_prob, which the posterior 'planar' does not provide"),
        ({"prior": "vamp"}, "prior 'vamp' needs log_prob, which the posterior 'planar' does not provide"),
        ({"loss": ["tc"]}, "loss 'tc' needs factorised, log_prob, which the posterior 'planar' does not provide"),
        ({"loss": ["beta"], "beta.free_bits": "1"}, "loss 'beta' needs factorised, which the posterior 'planar' does not"),
    ],
)
def test_features_that_need_the_density_elsewhere_are_refused(options: dict[str, object], lacking: str) -> None:
    with pytest.raises(UsageError, match=lacking) as refused:
        build_spec({}, {"posterior": "planar", **options})
    assert "gaussian" in str(refused.value)


def test_free_bits_require_a_factorised_prior() -> None:
    with pytest.raises(UsageError, match="loss 'beta' needs factorised, which the prior 'mixture' does not provide"):
        build_spec({}, {"prior": "mixture", "loss": ["beta"], "beta.free_bits": "1"})


@pytest.mark.parametrize("kind", [*FLOWS, "full_gaussian"])
def test_a_grid_of_latents_is_refused(kind: str) -> None:
    posterior = roles.posteriors.get(kind)(8)
    with pytest.raises(UsageError, match=f"the posterior {kind!r} does not support grids of latents"):
        vaekit.model.vae.params_shape(posterior, (2, 2, 2))


def test_a_detached_site_keeps_the_density_of_its_draws() -> None:
    vae = vae_of("planar")
    x = torch.rand(6, 1, 4, 3, dtype=F64)
    trace = vae(x)
    other = trace.detach()
    assert not other.site.log_q.requires_grad
    assert torch.equal(other.site.log_q, trace.site.log_q)
    assert isinstance(trace.site.q, Flow)


def test_a_gathered_batch_has_the_densities_of_its_draws() -> None:
    vae = vae_of("planar").double()
    x, noise = torch.rand(6, 1, 4, 3, dtype=F64), random(6, 2)
    trace = vae(x, noise, gather=lambda part, dim: torch.cat([part, part], dim))
    assert trace.whole is not None
    torch.testing.assert_close(trace.whole.site.log_q, trace.site.log_q.repeat(2))
