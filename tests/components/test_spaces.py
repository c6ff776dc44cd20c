"""Posteriors and priors on spheres and in hyperbolic space: parameters, validation, sampling, estimators and pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vaekit
from vaekit import roles
from vaekit.distributions import Curved, Delta, StandardNormal
from vaekit.distributions.poincare import exp_map, squared
from vaekit.drawing.latents import linear, nearest_codes, path
from vaekit.errors import UsageError
from vaekit.export.parts import Decoder
from vaekit.specs.resolve import resolve

F64 = torch.float64
SPACES = {"vmf": "hypersphere", "power_spherical": "hypersphere", "poincare": "poincare"}
MANY = 2_000


def posterior_of(kind: str, latent_dim: int = 3, **options: Any) -> Any:
    return roles.posteriors.get(kind)(latent_dim, **options).double()


def model_of(kind: str, latent_dim: int = 3, **options: Any) -> vaekit.VAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)  # the weights do not depend on the tests before
        posterior, prior = posterior_of(kind, latent_dim), roles.priors.get(SPACES[kind])(latent_dim, **options)
        encoder = roles.encoders.get("mlp")((1, 4, 3), posterior.param_shape, hidden=(8,))
        decoder = roles.decoders.get("mlp")((latent_dim,), (1, 4, 3), hidden=(8,))
    return vaekit.VAE(encoder, decoder, posterior=posterior, prior=prior).double()


def is_code(kind: str, z: Tensor) -> Tensor:
    """Return whether vectors are in the space, up to rounding in float32."""
    return squared(z)[..., 0] < 1 if kind == "poincare" else (z.norm(dim=-1) - 1).abs() < 1e-5


@pytest.mark.parametrize("kind", SPACES)
def test_the_prior_of_the_space_is_the_default_and_others_are_refused(kind: str) -> None:
    model = resolve({"model": {"posterior": kind}}).model
    assert (model.prior.kind, [loss.kind for loss in model.loss]) == (SPACES[kind], ["kl"])
    with pytest.raises(UsageError, match="different spaces") as error:
        resolve({"model": {"posterior": kind, "prior": "normal"}})
    assert f"--prior {SPACES[kind]}" in str(error.value.remedy)


@pytest.mark.parametrize("kind", ["vmf", "power_spherical"])
def test_spherical_codes_reach_the_decoder_with_the_norm_of_normal_ones(kind: str) -> None:
    vae = model_of(kind, 7)
    z = vae.sample_latent(5, generator=torch.Generator().manual_seed(0))
    assert is_code(kind, z).all()
    large = 7**0.5 * z
    torch.testing.assert_close(large.square().mean(-1), torch.ones(5, dtype=F64))
    expected = vae.likelihood(vae.decoder(large)).mean
    torch.testing.assert_close(vae.decode(z), expected)
    torch.testing.assert_close(Decoder(vae)(z), expected)  # the exported part


@pytest.mark.parametrize("kind", ["vmf", "power_spherical"])
def test_concentrations_are_positive_and_bounded(kind: str) -> None:
    posterior = posterior_of(kind, max_kappa=50.0)
    params = torch.zeros(3, 2, 3, dtype=F64)
    params[:, 1] = torch.tensor([-1e3, 0.0, 1e3], dtype=F64)[:, None]
    q = posterior(params)
    torch.testing.assert_close(q.kappa, torch.tensor([0.0, 3 * 0.6931471805599453, 50.0], dtype=F64))
    assert is_code(kind, q.mean).all()
    assert torch.equal(q.mean, q.mu)


@pytest.mark.parametrize("role", ["posterior", "prior"])
def test_a_sphere_needs_two_dimensions(role: str) -> None:
    for kind in {"posterior": ("vmf", "power_spherical"), "prior": ("hypersphere",)}[role]:
        with pytest.raises(UsageError, match="needs two dimensions") as error:
            getattr(roles, f"{role}s").get(kind)(1)
        assert (error.value.given, error.value.remedy) == ("1 latent", "increase latent_dim")


def test_centres_approach_the_largest_radius_in_order_of_their_length() -> None:
    """A short encoder vector gives the point's distance and direction."""
    vae = model_of("poincare", curvature=2.0)
    lengths = torch.tensor([1e-3, 1.0, 3.0, 10.0, 1e4], dtype=F64)
    params = torch.zeros(5, 2, 3, dtype=F64)
    params[:, 0, 1] = lengths
    q = vae.posterior(params, vae)
    distance = 2 * torch.atanh(2**0.5 * q.mu[:, 1]) / 2**0.5
    assert distance[0].item() == pytest.approx(1e-3, rel=1e-6)
    assert (distance.diff() > 0).all()
    assert distance[-1].item() == pytest.approx(6 / 2**0.5, rel=1e-6)


def test_the_curvature_is_that_of_the_prior() -> None:
    vae = model_of("poincare", curvature=0.25)
    x = torch.rand(2, 1, 4, 3, dtype=F64)
    assert vae.encode(x).c.item() == 0.25
    params = torch.zeros(1, 2, 3, dtype=F64)
    params[:, 0, 0] = 4.0
    assert vae.posterior(params, vae).mu[0, 0] > 1
    with pytest.raises(UsageError, match="depends on the curvature") as error:
        vae.posterior(params)
    assert error.value.given == "no model"


def test_the_scale_of_the_prior_is_that_of_distances_from_the_centre() -> None:
    vae = model_of("poincare", scale=0.5)
    noise = torch.tensor([[0.6, 0.8, 0.0]], dtype=F64)
    expected = exp_map(torch.zeros(3, dtype=F64), 0.5 * noise, torch.ones((), dtype=F64))
    torch.testing.assert_close(vae.prior().rsample(noise), expected)


@pytest.mark.parametrize("kind", SPACES)
@torch.no_grad()
def test_codes_of_images_and_of_the_prior_are_in_the_space(kind: str) -> None:
    vae = model_of(kind)
    x = torch.rand(20, 1, 4, 3, dtype=F64)
    for z in (vae.encode_to_latent(x), vae.encode(x).mean, vae.sample_latent(20), vae.sample_latent(20, temperature=0.1)):
        assert is_code(kind, z).all()
    assert torch.equal(vae.reconstruct(x), vae.decode(vae.encode(x).mean))


@torch.no_grad()
def test_a_temperature_draws_codes_to_the_centre_of_the_ball_and_a_sphere_has_none() -> None:
    draws = {
        (kind, t): model_of(kind).sample_latent(MANY, temperature=t, generator=torch.Generator().manual_seed(0))
        for kind in ("vmf", "poincare")
        for t in (0.0, 0.3, 1.0)
    }
    assert draws["poincare", 0.3].norm(dim=-1).mean() < 0.5 * draws["poincare", 1.0].norm(dim=-1).mean()
    assert not draws["poincare", 0.0].any()
    assert torch.equal(draws["vmf", 0.0], draws["vmf", 1.0])


@pytest.mark.parametrize("kind", ["vmf", "poincare"])
@torch.no_grad()
def test_importance_weights_are_unbiased_estimates_of_the_marginal(kind: str) -> None:
    """Importance weights and likelihoods of prior samples have the same mean, p(x), within their errors.

    The weights of `power_spherical` have infinite variance, since its density vanishes where the prior's does not.
    """
    vae = model_of(kind, 2)
    x = (torch.rand(1, 1, 4, 3, generator=torch.Generator().manual_seed(0)) > 0.5).to(F64)
    x = x.expand(MANY, -1, -1, -1)
    weight = vae(x, generator=torch.Generator().manual_seed(1)).log_weight.exp()
    z = vae.sample_latent(MANY, generator=torch.Generator().manual_seed(2))
    direct = vae.likelihood_of(z).log_prob(x).exp()
    error = (weight.var() / MANY + direct.var() / MANY).sqrt()
    assert (weight.mean() - direct.mean()).abs() < 4.9 * error
    assert error < 0.05 * direct.mean()


@pytest.mark.parametrize("kind", SPACES)
def test_stacked_draws_equal_separate_ones_with_their_gradients(kind: str) -> None:
    """Under `torch.vmap` of a gradient."""
    vae = model_of(kind)
    params, noise = torch.randn(4, 5, 2, 3, dtype=F64), torch.randn(4, 5, 3, dtype=F64)

    def value(given: Tensor, drawn: Tensor) -> Tensor:
        q = vae.posterior(given, vae)
        z = q.rsample(drawn)
        return (z * torch.arange(3)).sum() + q.log_prob(z).sum()

    stacked = torch.vmap(torch.func.grad(value))(params, noise)
    for i in range(4):
        given = params[i].clone().requires_grad_()
        (alone,) = torch.autograd.grad(value(given, noise[i]), given)
        torch.testing.assert_close(stacked[i], alone, rtol=1e-9, atol=1e-9)


def test_priors_of_curved_spaces_have_geodesics() -> None:
    for kind in SPACES:
        assert isinstance(model_of(kind).prior(), Curved)
    assert not isinstance(StandardNormal(torch.zeros(2)), Curved)
    assert not isinstance(Delta(torch.zeros(2)), Curved)


@pytest.mark.parametrize("kind", SPACES)
def test_straight_paths_are_geodesics_and_vectors_are_moved_to_codes(kind: str) -> None:
    vae = model_of(kind)
    a, b = vae.sample_latent(2, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(0, 1, 7, dtype=F64)
    straight = path(vae, "linear", a, b, t)
    assert is_code(kind, straight).all()
    torch.testing.assert_close(straight, vae.prior().geodesic(a, b, t))
    torch.testing.assert_close(straight[[0, -1]], torch.stack([a, b]))
    vectors = 5 * torch.randn(9, 3, dtype=F64)
    moved = nearest_codes(vae, vectors)
    assert is_code(kind, moved).all()
    torch.testing.assert_close(nearest_codes(vae, moved), moved)


def test_paths_in_flat_space_are_straight_lines() -> None:
    encoder, decoder = roles.encoders.get("mlp")((1, 4, 3), (2, 3)), roles.decoders.get("mlp")((3,), (1, 4, 3))
    vae = vaekit.VAE(encoder, decoder)
    a, b = torch.randn(2, 3)
    t = torch.linspace(0, 1, 7)
    assert torch.equal(path(vae, "linear", a, b, t), linear(a, b, t))
    assert nearest_codes(vae, a) is a


@pytest.fixture(scope="module", params=["vmf", "poincare"])
def run(request: pytest.FixtureRequest, labelled_run: Path, tmp_path_factory: pytest.TempPathFactory) -> vaekit.Run:
    """A run in each space."""
    options = {"encoder.hidden": (16,), "decoder.hidden": (16,), "epochs": 2, "batch_size": 16, "threads": 1, "device": "cpu"}
    options |= {"dataset": "array", "dataset.path": str(labelled_run.parent / "images.npz"), "latent_dim": 3, "likelihood": "bce"}
    folder = tmp_path_factory.mktemp("space") / "run"
    return vaekit.train(**options, posterior=request.param, pictures="none", out=folder)


PICTURES: dict[str, Callable[[Any], Any]] = {
    "interpolate": lambda pictures: pictures.interpolate(0, 1),
    "morph": lambda pictures: pictures.morph(steps=3),
    "traverse": lambda pictures: pictures.traverse(steps=3),
    "manifold": lambda pictures: pictures.manifold(side=4),
    "sample": lambda pictures: pictures.sample(num=4),
    "variations": lambda pictures: pictures.variations(per_class=2),
    "reconstruct": lambda pictures: pictures.reconstruct([0, 1]),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_decode_codes_only(run: vaekit.Run, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded, kind = [], run.spec.model.posterior.kind
    likelihood_of = vaekit.VAE.likelihood_of

    def watched(self: vaekit.VAE, z: Tensor, c: Tensor | None = None) -> Any:
        decoded.append(z)
        return likelihood_of(self, z, c)

    monkeypatch.setattr(vaekit.VAE, "likelihood_of", watched)
    PICTURES[name](run.pictures)
    assert decoded
    assert is_code(kind, torch.cat(decoded)).all()


def test_evaluation_has_the_kl_and_the_marginal_likelihood(run: vaekit.Run) -> None:
    numbers = run.evaluation()
    assert numbers is not None
    assert numbers["elbo"] == pytest.approx(-numbers["reconstruction"] - numbers["kl"], rel=1e-5)
    if run.spec.model.posterior.kind == "vmf":
        assert sum(numbers["kl_per_latent"]) == pytest.approx(numbers["kl"], rel=1e-4)
        assert len(set(numbers["kl_per_latent"])) == 1
