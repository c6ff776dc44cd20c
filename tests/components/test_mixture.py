"""A prior with its own noise, and spaces that must agree."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import distributions as D

import vaekit
from vaekit import roles
from vaekit.components.posteriors.gaussian import Gaussian
from vaekit.components.priors.mixture import Mixture
from vaekit.distributions import GaussianMixture
from vaekit.errors import UsageError
from vaekit.specs.resolve import resolve


def mixture_of() -> GaussianMixture:
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((4,), (4, 3), (4, 3))]
    return GaussianMixture(draw[0], 3 * draw[1], 0.3 * draw[2])


def test_the_density_equals_that_of_torch() -> None:
    p = mixture_of()
    components = D.Independent(D.Normal(p.mu, p.log_std.exp()), 1)
    theirs = D.MixtureSameFamily(D.Categorical(logits=p.logits), components)
    z = torch.randn(5, 7, 3, dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(z), theirs.log_prob(z))
    torch.testing.assert_close(p.mean, theirs.mean)


def test_samples_come_from_components_by_their_weights() -> None:
    p, prior = mixture_of(), Mixture(3, num_components=4)
    noise = prior.draw_noise(40_000, torch.Generator().manual_seed(0), like=p.mu)
    assert noise.shape == (40_000, 4)
    z = p.rsample(noise)
    torch.testing.assert_close(z.mean(0), p.mean, rtol=0, atol=0.1)
    cold = p.rsample(prior.draw_noise(1000, torch.Generator().manual_seed(0), like=p.mu, temperature=0.0))
    assert (torch.cdist(cold, p.mu).min(1).values < 1e-6).all()


def test_a_run_with_a_mixture_trains_samples_resumes_evaluates_and_exports(tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    images = np.zeros((300, 6, 6), np.uint8)
    images[np.arange(300), :, rng.integers(0, 6, 300)] = 220
    np.save(tmp_path / "images.npy", images)
    data = {"dataset": "array", "dataset.path": str(tmp_path / "images.npy"), "likelihood": "bce", "binarize": "threshold"}
    small = {"encoder.hidden": (16,), "decoder.hidden": (16,), "latent_dim": 2, "device": "cpu", "threads": 1, "lr": 1e-2}
    run = vaekit.train(**data, **small, prior="mixture", num_components=6, epochs=15, batch_size=32, out=tmp_path / "run")
    evaluation = run.evaluation()
    assert evaluation is not None
    assert evaluation["kl"] > 0
    first, last = run.metrics()[0], run.metrics()[-1]
    assert last["validation_elbo"] > first["validation_elbo"] + 2
    assert run.evaluate(samples=100)["log_likelihood"] >= evaluation["elbo"] - 0.1
    vae = run.vae()
    assert torch.equal(*(vae.sample(5, generator=torch.Generator().manual_seed(0)) for _ in range(2)))
    assert run.export("onnx").parity.difference < 1e-5
    for name in ("sample", "traverse", "manifold"):
        made = getattr(run.pictures, name)()
        assert all(path.is_file() for path in (made if isinstance(made, list) else [made]))


def test_a_posterior_and_a_prior_on_different_spaces_are_refused_before_data_are_read() -> None:
    class Sphere(Gaussian):
        """Codes on a sphere."""

        space: ClassVar[str] = "sphere"

    with roles.posteriors.temporarily(sphere=Sphere):
        with pytest.raises(UsageError, match="posterior 'sphere' and the prior 'normal' are on different spaces"):
            resolve({"model": {"posterior": "sphere"}})
        assert resolve({"model": {"posterior": "gaussian", "prior": "mixture"}}).model.prior.kind == "mixture"
