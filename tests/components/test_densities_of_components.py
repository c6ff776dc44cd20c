"""Properties of every posterior, prior and likelihood in the registry."""

import pytest
import torch

from vaekit import registry
from vaekit.distributions import kl_per_dim
from vaekit.interfaces import Capability

IMAGE = (2, 5, 4)
DIM = 3


def posterior(kind):
    return registry.posteriors.build(registry.posteriors.spec(kind)(), latent_dim=DIM).double()


def prior(kind):
    return registry.priors.build(registry.priors.spec(kind)(), latent_dim=DIM).double()


def likelihood(kind, **options):
    return registry.likelihoods.build(registry.likelihoods.spec(kind)(**options), image_shape=IMAGE).double()


@pytest.mark.parametrize("kind", registry.posteriors.kinds())
def test_posteriors_do_what_they_declare(kind):
    module = posterior(kind)
    params = torch.randn(6, *module.param_shape, dtype=torch.float64, requires_grad=True)
    q = module(params)
    noise = module.draw_noise(6, torch.Generator().manual_seed(0), like=params)
    z = q.rsample(noise)
    assert z.shape == q.mean.shape == (6, DIM)
    assert hasattr(q, "log_prob") == (Capability.LOG_PROB in module.provides)
    assert hasattr(q, "log_prob_per_dim") == (Capability.FACTORISED in module.provides)
    if Capability.FACTORISED in module.provides:
        torch.testing.assert_close(q.log_prob_per_dim(z).sum(-1), q.log_prob(z))
    torch.autograd.grad(z.square().sum(), params)
    more = module.draw_noise(12, torch.Generator().manual_seed(0), like=params).unflatten(0, (2, 6))
    assert q.rsample(more).shape == (2, 6, DIM)


@pytest.mark.parametrize("kind", registry.posteriors.kinds())
def test_posteriors_are_finite_at_extreme_parameters(kind):
    module = posterior(kind).float()
    for value in (1e4, -1e4):
        q = module(torch.full((2, *module.param_shape), value))
        z = q.rsample(module.draw_noise(2, torch.Generator().manual_seed(0), like=q.mean))
        assert torch.isfinite(z).all()
        if Capability.LOG_PROB in module.provides:
            kl = kl_per_dim(q, registry.priors.build(registry.priors.spec("normal")(), latent_dim=DIM)())
            assert torch.isfinite(kl).all()


@pytest.mark.parametrize("kind", registry.priors.kinds())
def test_priors_do_what_they_declare(kind):
    module = prior(kind)
    z = module().rsample(torch.randn(7, DIM, dtype=torch.float64))
    assert module().log_prob(z).shape == (7,)
    if Capability.FACTORISED in module.provides:
        torch.testing.assert_close(module().log_prob_per_dim(z).sum(-1), module().log_prob(z))


@pytest.mark.parametrize("kind", registry.likelihoods.kinds())
def test_likelihoods_score_each_example_and_their_mean_is_in_the_data_range(kind):
    module = likelihood(kind)
    params = 5 * torch.randn(2, 6, *module.param_shape, dtype=torch.float64)
    p = module(params)
    x = torch.rand(6, *IMAGE, dtype=torch.float64)
    assert p.log_prob(x).shape == (2, 6)
    assert p.mean.shape == (2, 6, *IMAGE)
    assert p.mean.min() >= 0
    assert p.mean.max() <= 1
    assert p.rsample(torch.randn(2, 6, *IMAGE, dtype=torch.float64)).shape == (2, 6, *IMAGE)


@pytest.mark.parametrize("kind", registry.likelihoods.kinds())
def test_likelihoods_are_highest_at_their_mean_image(kind):
    module = likelihood(kind)
    p = module(torch.randn(6, *module.param_shape, dtype=torch.float64))
    at_mean = p.log_prob(p.mean.round() if kind == "bce" else p.mean)
    away = p.log_prob(1 - p.mean.round() if kind == "bce" else (p.mean + 0.3))
    assert (at_mean > away).all()


@pytest.mark.parametrize("kind", ["mse", "gaussian", "laplace"])
def test_identity_link_passes_means_through_and_takes_any_pixels(kind):
    module = likelihood(kind, link="identity")
    params = 5 * torch.randn(3, *IMAGE, dtype=torch.float64)
    torch.testing.assert_close(module(params).mean, params)
    assert module.support == "real"
    assert likelihood(kind).support == "unit"


@pytest.mark.parametrize(("kind", "scale"), [("gaussian", "sigma"), ("laplace", "scale")])
def test_scales_are_learned_or_fixed_as_asked(kind, scale):
    learned, fixed = likelihood(kind, **{scale: 0.25}), likelihood(kind, **{scale: 0.25, "learned": False})
    assert len(list(learned.parameters())) == 1
    assert not list(fixed.parameters())
    for module in (learned, fixed):
        assert module.scale().exp().item() == pytest.approx(0.25, rel=1e-6)


def test_half_precision_parameters_are_scored_in_float32():
    for kind in registry.likelihoods.kinds():
        module = likelihood(kind).float()
        p = module(torch.randn(2, *module.param_shape, dtype=torch.bfloat16))
        assert p.mean.dtype == torch.float32
