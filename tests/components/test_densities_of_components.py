"""What the options of posteriors and likelihoods change."""

import pytest
import torch

from vaekit import roles
from vaekit.distributions import kl_per_dim
from vaekit.interfaces import Capability

IMAGE = (2, 5, 4)
DIM = 3


def posterior(kind):
    return roles.posteriors.build(roles.posteriors.spec(kind)(), latent_dim=DIM).double()


def likelihood(kind, **options):
    return roles.likelihoods.build(roles.likelihoods.spec(kind)(**options), image_shape=IMAGE).double()


@pytest.mark.parametrize("kind", [k for k in roles.posteriors.kinds() if Capability.LOG_PROB in posterior(k).provides])
def test_kl_is_finite_at_extreme_parameters(kind):
    module = posterior(kind).float()
    normal = roles.priors.build(roles.priors.spec("normal")(), latent_dim=DIM)
    for value in (1e4, -1e4):
        kl = kl_per_dim(module(torch.full((2, *module.param_shape), value)), normal())
        assert torch.isfinite(kl).all()


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
