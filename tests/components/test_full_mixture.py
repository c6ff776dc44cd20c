"""Full-covariance mixtures fitted by EM, and density estimation of codes as a second stage."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sklearn.mixture import GaussianMixture as EM
from torch import Tensor
from torch import distributions as td

import vaekit
from vaekit import roles
from vaekit.components.losses.prior_nll import PriorNLL
from vaekit.components.priors.full_mixture import FullMixture
from vaekit.data import TensorImages
from vaekit.data.facts import Facts
from vaekit.distributions import Delta, FullGaussianMixture
from vaekit.errors import UsageError
from vaekit.interfaces import ModelPart
from vaekit.model import assembly
from vaekit.model.assembly import build_objective, build_vae, example_inputs, initial_state
from vaekit.specs.options import build_spec
from vaekit.trace import Site, Trace

F64 = torch.float64
REST: tuple[ModelPart, ...] = ("encoder", "decoder", "posterior", "likelihood")


def mixture() -> FullGaussianMixture:
    generator = torch.Generator().manual_seed(0)
    tril = 0.5 * torch.randn(4, 3, 3, generator=generator, dtype=F64).tril(-1) + torch.diag_embed(
        0.3 + torch.rand(4, 3, generator=generator, dtype=F64)
    )
    return FullGaussianMixture(
        torch.randn(4, generator=generator, dtype=F64), 2 * torch.randn(4, 3, generator=generator, dtype=F64), tril
    )


def codes_of(num: int) -> Tensor:
    noise = torch.randn(num, 3, generator=torch.Generator().manual_seed(1), dtype=F64)
    return mixture().rsample(torch.cat([noise, torch.rand(num, 1, generator=torch.Generator().manual_seed(2), dtype=F64)], -1))


def trace_of(z: Tensor, p: Any = None) -> Trace:
    return Trace(z, (Site(z, Delta(z), p, has_density=False),), p)


def test_the_density_matches_torch() -> None:
    p = mixture()
    theirs = td.MixtureSameFamily(td.Categorical(logits=p.logits), td.MultivariateNormal(p.mu, scale_tril=p.tril))
    z = torch.randn(5, 7, 3, dtype=F64)
    torch.testing.assert_close(p.log_prob(z), theirs.log_prob(z))
    torch.testing.assert_close(p.mean, theirs.mean)


def test_draws_have_the_mean_and_the_covariance() -> None:
    p, z = mixture(), codes_of(200_000)
    theirs = td.MixtureSameFamily(td.Categorical(logits=p.logits), td.MultivariateNormal(p.mu, scale_tril=p.tril))
    second = torch.softmax(p.logits, 0)[:, None, None] * (p.tril @ p.tril.mT + p.mu[:, :, None] * p.mu[:, None, :])
    covariance = second.sum(0) - theirs.mean[:, None] * theirs.mean
    torch.testing.assert_close(z.mean(0), theirs.mean, atol=0.03, rtol=0)  # five standard errors of a variance of some 6
    torch.testing.assert_close(torch.cov(z.T), covariance, atol=0.15, rtol=0.03)


def test_it_starts_at_the_fit_of_scikit_learn() -> None:
    z = codes_of(2000)
    prior = FullMixture(3, num_components=4).double()
    prior.load_state_dict(prior.initial_state(trace_of(z)), strict=False)
    own = prior().log_prob(z).mean().item()
    fit = EM(4, random_state=0, reg_covar=1e-4 * float(z.var(0, correction=0).mean())).fit(z.numpy())
    assert own == pytest.approx(fit.score(z.numpy()), abs=1e-9)


def test_equal_codes_still_give_a_positive_scale() -> None:
    prior = FullMixture(3, num_components=2).double()
    z = codes_of(50)
    z[:, 1] = 0.7
    state = prior.initial_state(trace_of(z))
    assert all(value.isfinite().all() for value in state.values())
    prior.load_state_dict(prior.initial_state(trace_of(torch.ones(50, 3, dtype=F64))), strict=False)
    assert prior().log_prob(torch.ones(1, 3, dtype=F64)).isfinite().all()


def test_more_components_than_codes_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot be estimated"):
        FullMixture(3, num_components=10).initial_state(trace_of(codes_of(9)))


def test_the_loss_is_the_cross_entropy_and_moves_the_prior_alone() -> None:
    z = codes_of(20)
    loss = PriorNLL()
    torch.testing.assert_close(loss(trace_of(z, mixture())), -mixture().log_prob(z))
    samples = codes_of(60).view(3, 20, 3)
    torch.testing.assert_close(loss(trace_of(samples, mixture())), -mixture().log_prob(samples).mean(0))
    assert [aim.moves for aim in loss.aims().values()] == [("prior",)]
    declared = roles.losses.get("prior_nll").declare({})
    assert declared.requires == frozenset()
    assert declared.requires_of_prior == {"log_prob"}


def test_the_number_of_images_for_the_fit_depends_on_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def fit(self: FullMixture, trace: Trace) -> dict[str, Tensor]:
        seen.append(len(trace.z))
        return {}

    monkeypatch.setattr(FullMixture, "initial_state", fit)
    monkeypatch.setattr(assembly, "INITIAL_NUMBERS", 640_000)
    options = {"latent_dim": 2, "encoder.hidden": (8,), "decoder.hidden": (8,), "likelihood": "bce"}
    spec = build_spec({}, {**options, "prior": "full_mixture"})
    for num, side in ((12_000, 8), (900, 8), (3000, 20), (1200, 30)):
        images = TensorImages(torch.zeros(num, 1, side, side, dtype=torch.uint8))
        objective = build_objective(spec.model, build_vae(spec.model, Facts(data_shape=images.shape), seed=0))
        initial_state(spec, objective, images)
        assert objective.vae.chunk is None
    assert seen == [10_000, 900, 1600, 1024]  # 1,024 are always seen


def test_the_fit_needs_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.mixture", None)
    with pytest.raises(UsageError, match=r"vaekit\[mixtures\]"):
        FullMixture(3).initial_state(trace_of(codes_of(20)))


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> vaekit.Run:
    given = {"encoder.hidden": (64,), "decoder.hidden": (64,), "latent_dim": 6, "posterior": "delta", "epochs": 2}
    given |= {"device": "cpu", "threads": 1, "pictures": "none", "lr": 3e-3, "loss": "mse"}
    return vaekit.train(**given, out=tmp_path_factory.mktemp("stages") / "first")


def second(first: vaekit.Run, out: Path, **more: Any) -> vaekit.Run:
    options = {"init": first.path, "freeze": REST, "epochs": 2, "lr": 3e-3, "loss": ["mse", "prior_nll"], **more}
    return vaekit.train(first.spec, **options, out=out)


def distance(run: vaekit.Run) -> float:
    """Return the mean distance of images sampled from the prior to the nearest test images."""
    vae = run.vae()
    x = vaekit.datasets.get("digits")().load().test.gather(torch.arange(1000)).float().flatten(1) / 255
    draws = vae.sample(500, generator=torch.Generator().manual_seed(0)).flatten(1)
    return torch.cdist(draws, x).min(1).values.mean().item()


def test_priors_are_fitted_to_the_codes_of_an_autoencoder(autoencoder: vaekit.Run, tmp_path: Path) -> None:
    values, distances = {}, {"normal": distance(autoencoder)}
    for kind in ("full_mixture", "mixture", "maf"):
        run = second(autoencoder, tmp_path / kind, prior=kind)
        before, after = (load_file(each.folder.model) for each in (autoencoder, run))
        assert all(torch.equal(before[name], after[name]) for name in before if not name.startswith("prior."))
        values[kind], distances[kind] = run.metrics()[-1]["validation_prior_nll"], distance(run)
    assert values["full_mixture"] < values["mixture"]
    assert all(distances[kind] < distances["normal"] for kind in distances if kind != "normal")
    assert distances["full_mixture"] == min(distances.values()) or distances["maf"] == min(distances.values())


def test_fitting_a_prior_does_not_change_the_autoencoder() -> None:
    options = {"posterior": "delta", "prior": "mixture", "latent_dim": 2, "encoder.hidden": (8,), "decoder.hidden": (8,)}
    found = []
    for losses in (["mse"], ["mse", "prior_nll"]):
        model = build_spec({}, {**options, "loss": losses}).model
        objective = build_objective(model, build_vae(model, Facts(data_shape=(1, 4, 3)), seed=0))
        objective(example_inputs(objective)).total.backward()
        found.append({name: parameter.grad for name, parameter in objective.named_parameters()})
    alone, beside = found
    for name, gradient in beside.items():
        if name.startswith("vae.prior."):
            assert alone[name] is None or not alone[name].any()
            assert gradient.abs().max() > 0
        else:
            torch.testing.assert_close(gradient, alone[name])


def test_covariances_that_codes_cannot_determine_are_refused() -> None:
    with pytest.raises(UsageError, match=r"cannot be estimated(.*\n)*.*1025 latents(.*\n)*.*at most 1024"):
        FullMixture(1025)
    prior = FullMixture(8, num_components=3)
    codes = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    assert prior.initial_state(trace_of(codes, prior()))["mu"].shape == (3, 8)
    with pytest.raises(UsageError, match=r"7 codes of 8 latents for 3 components(.*\n)*.*as many codes as latents"):
        prior.initial_state(trace_of(codes[1:], prior()))
