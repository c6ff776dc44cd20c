"""The VAE's methods, its trace, and the identities between bounds."""

import math

import pytest
import torch
from torch import nn

import vaekit
from vaekit import roles
from vaekit.data import Batch
from vaekit.errors import UsageError
from vaekit.evaluation.importance import log_likelihood
from vaekit.streams import Streams

SHAPE = (1, 6, 5)


class Linear(nn.Module):
    """A linear map between event shapes."""

    def __init__(self, in_shape, out_shape):
        super().__init__()
        self.in_shape, self.out_shape = in_shape, out_shape
        self.linear = nn.Linear(math.prod(in_shape), math.prod(out_shape))

    def forward(self, x):
        return self.linear(x.flatten(1)).unflatten(1, self.out_shape)


def make(likelihood="bce", posterior="gaussian", dim=3, seed=0, **options):
    torch.manual_seed(seed)
    p = roles.likelihoods.build(roles.likelihoods.spec(likelihood)(**options), data_shape=SHAPE)
    q = roles.posteriors.build(roles.posteriors.spec(posterior)(), latent_dim=dim)
    return vaekit.VAE(Linear(SHAPE, q.param_shape), Linear((dim,), SHAPE), posterior=q, likelihood=p).double()


def images(num=4):
    return torch.rand(num, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64).round()


def test_a_vae_is_built_from_parts_with_defaults():
    vae = vaekit.VAE(Linear(SHAPE, (2, 3)), Linear((3,), SHAPE))
    mu, logvar = vae.encode(images().float())
    assert mu.shape == logvar.shape == (4, 3)
    assert vae.latent_dim == 3
    assert vae.data_shape == SHAPE


def test_methods_return_the_documented_shapes():
    vae, x = make(), images()
    z = vae.encode_to_latent(x)
    assert z.shape == (4, 3)
    assert vae.decode(z).shape == (4, *SHAPE)
    assert vae.decode(torch.randn(2, 4, 3).double()).shape == (2, 4, *SHAPE)
    assert vae.sample(7).shape == (7, *SHAPE)
    assert vae.reconstruct(x).shape == x.shape
    trace = vae(x)
    assert trace.reconstruction.shape == x.shape
    assert trace.kl.shape == trace.log_likelihood.shape == trace.log_weight.shape == (4,)


def test_reparameterize_is_the_posteriors_sample():
    vae, x = make(), images()
    noise = torch.randn(4, 3).double()
    torch.testing.assert_close(vae.reparameterize(*vae.encode(x), noise), vae.encode_to_latent(x, noise))


def test_samples_follow_their_generator():
    vae = make()
    first, again, other = (vae.sample(3, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    same = vae.sample(3, temperature=0.0)
    assert torch.equal(same[0], same[1])


def test_decoding_several_samples_equals_decoding_each():
    vae = make()
    z = torch.randn(5, 4, 3).double()
    torch.testing.assert_close(vae.decode(z), torch.stack([vae.decode(one) for one in z]))


def test_evidence_bound_with_one_sample_is_the_log_weight():
    """K = 1: the importance bound is the Monte-Carlo ELBO, example by example."""
    vae, x = make(), images()
    trace = vae(x, torch.randn(4, 3).double())
    site = trace.site
    torch.testing.assert_close(trace.log_weight, trace.log_likelihood - (site.log_q - site.log_p))


def test_sampled_kl_converges_to_the_closed_form():
    vae, x = make(), images()
    site = vae(x, torch.randn(100_000, 4, 3, generator=torch.Generator().manual_seed(0)).double()).site
    torch.testing.assert_close((site.log_q - site.log_p).mean(0), site.kl, rtol=0.02, atol=0.01)


def test_importance_bound_does_not_decrease_in_the_number_of_samples():
    vae, x = make(), images(8)
    log_w = vae(x, torch.randn(4096, 8, 3, generator=torch.Generator().manual_seed(0)).double()).log_weight
    bounds = [(log_w.view(-1, k, 8).logsumexp(1) - math.log(k)).mean().item() for k in (1, 4, 16, 64)]
    assert bounds == sorted(bounds)


def linear_gaussian():
    """A VAE whose log p(x) is known: p(x|z) = N(Wz + b, s² I), so p(x) = N(b, W Wᵀ + s² I)."""
    vae = make("gaussian", link="identity", sigma=0.7, learned=False)
    x = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    layer = vae.decoder.linear
    covariance = layer.weight @ layer.weight.T + 0.49 * torch.eye(30).double()
    exact = torch.distributions.MultivariateNormal(layer.bias, covariance).log_prob(x.flatten(1))
    return vae, x, exact.detach()


def estimate(vae, x, samples, **options):
    batches = [Batch(x=x, inputs=x, y=None, index=torch.arange(len(x)))]
    return log_likelihood(vae, batches, Streams(0), samples=samples, **options)


def test_importance_sampling_reaches_the_log_likelihood_of_a_linear_gaussian_model():
    vae, x, exact = linear_gaussian()
    few, many = estimate(vae, x, 10), estimate(vae, x, 200_000)
    assert many["log_likelihood"] == pytest.approx(exact.mean().item(), abs=0.05)
    assert few["log_likelihood"] < many["log_likelihood"]
    assert 1 <= few["effective_samples"] <= 10


def test_importance_sampling_is_exact_with_the_true_posterior():
    """With q(z|x) = p(z|x), every weight is p(x): one sample is enough, and all samples are effective."""
    vae, x, exact = linear_gaussian()
    weight, bias = vae.decoder.linear.weight.detach(), vae.decoder.linear.bias.detach()
    basis, _ = torch.linalg.qr(weight)  # orthogonal columns make the true posterior diagonal
    with torch.no_grad():
        vae.decoder.linear.weight.copy_(basis * torch.tensor([1.5, 0.8, 0.4]).double())
        weight = vae.decoder.linear.weight
        precision = 1 + (weight**2).sum(0) / 0.49
        encoder = vae.encoder.linear
        encoder.weight.zero_()
        encoder.weight[:3] = (weight / 0.49 / precision).T
        encoder.bias[:3] = -encoder.weight[:3] @ bias
        encoder.bias[3:] = -precision.log()
        covariance = weight @ weight.T + 0.49 * torch.eye(30).double()
        exact = torch.distributions.MultivariateNormal(bias, covariance).log_prob(x.flatten(1))
    one, several = estimate(vae, x, 1), estimate(vae, x, 9)
    assert one["log_likelihood"] == pytest.approx(exact.mean().item(), abs=1e-6)  # σ is held in float32
    assert several["effective_samples"] == pytest.approx(9, abs=1e-6)
    trace = vae(x)
    torch.testing.assert_close(trace.log_weight, exact, atol=1e-5, rtol=0)


def test_importance_sampling_in_chunks_uses_exactly_k_samples():
    vae, x, exact = linear_gaussian()
    small = estimate(vae, x, 50_000, chunk=7 * 5)
    assert small["samples"] == 50_000
    assert small["log_likelihood"] == pytest.approx(exact.mean().item(), abs=0.1)


def test_a_point_mass_has_no_kl_and_no_importance_weight():
    vae, x = make(posterior="delta"), images()
    trace = vae(x)
    assert trace.kl is None
    torch.testing.assert_close(trace.z, vae.encode(x).mean)
    with pytest.raises(TypeError, match="no density"):
        _ = trace.log_weight
    with pytest.raises(UsageError, match="no density"):
        estimate(vae, x, 3)


@pytest.mark.parametrize("x", [torch.zeros(2, 1, 5, 6), torch.zeros(2, 3, 6, 5), torch.zeros(2, *SHAPE, dtype=torch.uint8)])
def test_images_of_another_shape_or_type_are_refused(x):
    with pytest.raises(UsageError, match="cannot encode these images"):
        make().encode(x)


def test_latents_of_another_size_are_refused():
    with pytest.raises(UsageError, match="cannot decode these latent vectors"):
        make().decode(torch.zeros(2, 4).double())


def test_incompatible_parts_are_refused():
    with pytest.raises(UsageError, match="encoder's out_shape does not match"):
        vaekit.VAE(Linear(SHAPE, (2, 4)), Linear((3,), SHAPE))
    with pytest.raises(UsageError, match="does not declare its in_shape"):
        vaekit.VAE(Linear(SHAPE, (2, 4)), nn.Linear(3, 4))


def test_the_trace_keeps_the_graph_in_one_compiled_function():
    vae, x = make(), images()
    noise = torch.randn(4, 3).double()

    def loss(x, noise):
        trace = vae(x, noise)
        return (trace.kl - trace.log_likelihood).mean()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, noise), loss(x, noise))
