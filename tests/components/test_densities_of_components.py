"""Effects of the options of posteriors and likelihoods."""

import math

import pytest
import torch

from vaekit import roles
from vaekit.errors import UsageError
from vaekit.nn.heads import MIN_SCALE, SPEEDUP
from vaekit.trace import Site

IMAGE = (2, 5, 4)
DIM = 3


def posterior(kind):
    return roles.posteriors.build(roles.posteriors.spec(kind)(), latent_dim=DIM, latent_shape=(DIM,)).double()


def likelihood(kind, **options):
    return roles.likelihoods.build(roles.likelihoods.spec(kind)(**options), data_shape=IMAGE).double()


@pytest.mark.parametrize(
    "kind", [k for k in roles.posteriors.kinds() if posterior(k).default_prior == "normal" and posterior(k).default_loss]
)
def test_kl_is_finite_at_extreme_parameters(kind):
    module = posterior(kind).float()
    normal = roles.priors.build(roles.priors.spec("normal")(), latent_dim=DIM)
    for value in (1e4, -1e4):
        q, noise = module(torch.full((2, *module.param_shape), value)), torch.ones(2, DIM)
        kl = Site.drawn(q, noise, normal()).kl  # in closed form or sampled
        assert kl is not None
        assert torch.isfinite(kl).all()


@pytest.mark.parametrize("kind", ["mse", "l1", "gaussian", "laplace"])
def test_identity_link_passes_means_through_and_takes_any_pixels(kind):
    module = likelihood(kind, link="identity")
    params = 5 * torch.randn(3, *IMAGE, dtype=torch.float64)
    torch.testing.assert_close(module(params).mean, params)
    assert module.support == "real"
    assert likelihood(kind).support == "unit"


@pytest.mark.parametrize(("kind", "scale"), [("gaussian", "sigma"), ("laplace", "scale")])
def test_scales_are_learned_or_fixed_as_requested(kind, scale):
    learned, fixed = likelihood(kind, **{scale: 0.25}), likelihood(kind, **{scale: 0.25, "learned": False})
    assert len(list(learned.parameters())) == 1
    assert not list(fixed.parameters())
    for module in (learned, fixed):
        assert module.scale().exp().item() == pytest.approx(0.25, rel=1e-6)


@pytest.mark.parametrize(("kind", "scale"), [("gaussian", "sigma"), ("laplace", "scale")])
def test_a_learned_scale_starts_above_its_bound_and_recovers_below_it(kind, scale):
    module = likelihood(kind, **{scale: 0.25})
    (value,) = module.parameters()
    with torch.no_grad():
        value.fill_((math.log(MIN_SCALE) - 1) / SPEEDUP)
    for sign, moves in ((1, False), (-1, True)):  # a loss that favours a smaller scale, and one that favours a larger scale
        value.grad = None
        (sign * module.scale()).sum().backward()
        assert bool(value.grad.abs() > 0) == moves
    assert module.scale().item() == pytest.approx(math.log(MIN_SCALE))
    with pytest.raises(UsageError, match="not above its lower bound"):
        likelihood(kind, **{scale: 0.001})
    assert likelihood(kind, **{scale: 0.001, "learned": False}).scale().item() == pytest.approx(math.log(0.001))
