"""Identities of the losses."""

import math

import pytest
import torch
from small import small

import vaekit
from vaekit import roles
from vaekit.components.losses.tc import decompose
from vaekit.distributions import BernoulliPixels, DiagonalGaussian, StandardNormal
from vaekit.trace import Site, Trace

F64 = torch.float64
PRIOR = StandardNormal(torch.zeros(3, dtype=F64))


def site(q, seed=0):
    z = q.rsample(torch.randn(q.mu.shape, generator=torch.Generator().manual_seed(seed), dtype=F64))
    return Site(z=z, q=q, p=PRIOR)


def posterior(batch, seed=0, spread=1.5, logvar=-1.0):
    mu = spread * torch.randn(batch, 3, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return DiagonalGaussian(mu, torch.full_like(mu, logvar))


def trace(q=None, *, num_data=None, epoch=None, batch=8):
    q = posterior(batch) if q is None else q
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(len(q.mu), 1, 4, 5, generator=generator, dtype=F64).round()
    logits = torch.randn(x.shape, generator=generator, dtype=F64)
    epoch = None if epoch is None else torch.tensor(float(epoch))
    return Trace(x=x, sites=(site(q),), decoded=BernoulliPixels(logits), num_data=num_data, epoch=epoch)


def build(kind, **options):
    spec = roles.losses.spec(kind)(**{**small(roles.losses, kind), **options})
    return roles.losses.build(spec, latent_dim=3, data_shape=(1, 4, 5), num_classes=3).double()


def model_trace(loss, copies=1):
    """A trace of eight examples, each repeated, with the samples and noise requested by a loss."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = roles.encoders.get("mlp")((1, 4, 5), (2, 3), hidden=(8,))
        vae = vaekit.VAE(encoder, roles.decoders.get("mlp")((3,), (1, 4, 5), hidden=(8,))).double()
        x, y = torch.rand(8, 1, 4, 5, dtype=F64).round(), torch.arange(8) % 3
        noise = torch.randn(*(loss.samples or ()), 8, 3, dtype=F64)
        drawn = loss.draw_noise(8, like=x, model=vae)
    draws = {} if drawn is None else {loss.kind: torch.cat(copies * [drawn])}
    noise = torch.cat(copies * [noise], -2)
    return vae(x.repeat(copies, 1, 1, 1), noise, y=y.repeat(copies), num_data=50, epoch=torch.tensor(3.0, dtype=F64), draws=draws)


def exact_log_q(z, q):
    """log q(z) and log prod q(z_d) of the aggregate posterior over the whole dataset, by enumeration."""
    pairs = torch.stack([q.log_prob_per_dim(z_i.expand_as(q.mu)) for z_i in z])  # i, j, d
    log_n = math.log(len(q.mu))
    return torch.logsumexp(pairs.sum(-1), 1) - log_n, (torch.logsumexp(pairs, 1) - log_n).sum(-1)


def test_beta_one_is_the_kl():
    t = trace()
    torch.testing.assert_close(build("beta", beta=1.0)(t), build("kl")(t))


def test_beta_scales_the_kl():
    t = trace()
    torch.testing.assert_close(build("beta", beta=4.0)(t), 4 * t.kl)


def test_warm_up_starts_at_zero_and_ends_at_beta():
    loss = build("beta", beta="linear(0, 2, 10)")
    assert loss(trace(epoch=0)).abs().max() == 0
    torch.testing.assert_close(loss(trace(epoch=5)), trace().kl)
    torch.testing.assert_close(loss(trace(epoch=math.inf)), 2 * trace().kl)
    torch.testing.assert_close(loss(trace()), 2 * trace().kl)


def test_free_bits_do_not_penalise_latents_below_them():
    q = posterior(8, spread=0.01, logvar=0.0)
    mu = q.mu.requires_grad_()
    t = trace(DiagonalGaussian(mu, q.logvar))
    value = build("beta", beta=1.0, free_bits=0.5)(t)
    assert value.item() == pytest.approx(1.5)
    (gradient,) = torch.autograd.grad(value, mu)
    assert gradient.abs().max() == 0


def test_the_capacity_loss_is_zero_at_the_capacity():
    t = trace()
    assert build("capacity", capacity=t.kl.mean().item())(t).item() == pytest.approx(0, abs=1e-3)
    above = build("capacity", gamma=10.0, capacity=t.kl.mean().item() + 2)(t)
    assert above.item() == pytest.approx(20, rel=1e-5)


@pytest.mark.parametrize("estimator", ["stratified", "weighted"])
def test_tc_decomposition_sums_to_the_sampled_kl(estimator):
    s = site(posterior(8))
    parts = decompose(s, 100, estimator)
    torch.testing.assert_close(sum(parts), s.log_q - s.log_p)


@pytest.mark.parametrize("estimator", ["stratified", "weighted"])
def test_tc_with_unit_weights_is_the_sampled_kl(estimator):
    t = trace(num_data=100)
    value = build("tc", alpha=1.0, beta=1.0, gamma=1.0, estimator=estimator)(t)
    torch.testing.assert_close(value, t.site.log_q - t.site.log_p)


def test_stratified_estimator_is_exact_when_the_batch_is_the_dataset():
    q = posterior(12)
    s = site(q)
    parts = decompose(s, 12, "stratified")
    log_q, log_product = exact_log_q(s.z, q)
    torch.testing.assert_close(parts.mutual_information, s.log_q - log_q)
    torch.testing.assert_close(parts.total_correlation, log_q - log_product)
    torch.testing.assert_close(parts.dimension_wise_kl, log_product - s.log_p)


def test_stratified_estimate_of_the_aggregate_is_unbiased():
    """Averaged over all batches of 3 of 6 images, the estimate of q(z_i) is the exact aggregate."""
    from itertools import combinations

    q = posterior(6)
    s = site(q)
    sums, counts = torch.zeros(6, dtype=F64), torch.zeros(6)
    for batch in combinations(range(6), 3):
        rows = list(batch)
        part = Site(s.z[rows], DiagonalGaussian(q.mu[rows], q.logvar[rows]), PRIOR)
        mi = decompose(part, 6, "stratified").mutual_information
        sums[rows] += (part.log_q - mi).exp()
        counts[rows] += 1
    log_q, _ = exact_log_q(s.z, q)
    torch.testing.assert_close(sums / counts, log_q.exp())


def test_weighted_estimator_follows_its_formula():
    q = posterior(5)
    s = site(q)
    parts = decompose(s, 50, "weighted")
    log_q, log_product = exact_log_q(s.z, q)  # over the batch
    torch.testing.assert_close(parts.mutual_information, s.log_q - (log_q - math.log(50)))
    torch.testing.assert_close(parts.dimension_wise_kl, log_product - 3 * math.log(50) - s.log_p)


def test_mutual_information_is_at_most_the_kl_and_the_log_size_of_the_dataset():
    q = posterior(400)
    s = site(q)
    parts = decompose(s, 400, "stratified")
    kl = (s.log_q - s.log_p).mean()
    assert parts.mutual_information.mean() <= kl
    assert parts.mutual_information.mean() <= math.log(400)


def test_total_correlation_of_factorised_codes_is_small_and_of_copied_codes_large():
    free = site(posterior(2000))
    assert decompose(free, 2000, "stratified").total_correlation.mean().abs() < 0.15
    one = posterior(2000).mu[:, :1].expand(-1, 3)
    copied = site(DiagonalGaussian(one, torch.full_like(one, -3.0)))
    assert decompose(copied, 2000, "stratified").total_correlation.mean() > 2


def test_a_batch_of_one_is_finite():
    assert torch.isfinite(build("tc")(trace(posterior(1), num_data=100))).all()


OF_GAUSSIANS = [
    kind
    for kind in roles.losses.kinds()
    if (cls := roles.losses.get(kind)).requires <= roles.posteriors.get("gaussian").provides
    and (cls.requires_of_prior or frozenset()) <= roles.priors.get("normal").provides
]


@pytest.mark.parametrize("kind", OF_GAUSSIANS)
def test_duplicating_every_image_leaves_losses_unchanged_unless_declared_a_batch_statistic(kind):
    loss = build(kind)
    if loss.batch_statistic:
        return
    torch.testing.assert_close(loss(model_trace(loss, 2)), loss(model_trace(loss)).repeat(2))


@pytest.mark.parametrize("kind", OF_GAUSSIANS)
def test_losses_have_a_value_per_example_or_per_batch(kind):
    loss = build(kind)
    value = loss(model_trace(loss))
    assert value.shape in {(8,), ()}
    assert torch.isfinite(value).all()


@pytest.mark.parametrize("kind", roles.losses.kinds())
def test_weights_of_losses_are_buffers_that_are_saved_only_if_learned(kind):
    loss = build(kind)
    assert loss.state_dict().keys() == {*dict(loss.named_parameters()), *loss.learned}
    assert all(buffer.dtype == F64 for buffer in loss.buffers())
