"""The maximum mean discrepancy."""

import pytest
import torch

import vaekit
from vaekit.components.losses.mmd import mean_kernel, sampled_squared_mmd, squared_mmd

SCALES = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)


def test_closed_forms_agree_with_sums_over_a_grid():
    z = 0.5 + 1.5 * torch.randn(100, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    axis = torch.linspace(-6, 6, 61, dtype=torch.float64)
    y = torch.cartesian_prod(axis, axis)
    p = torch.softmax(-y.square().sum(-1) / 2, 0)

    def kernel(a, b):
        return torch.stack([torch.exp(-torch.cdist(a, b).square() / (2 * s**2 * 2)) for s in SCALES]).mean(0)

    among_codes = (kernel(z, z).sum() - len(z)) / (len(z) * (len(z) - 1))
    exact = among_codes - 2 * (kernel(z, y) @ p).mean() + p @ kernel(y, y) @ p
    torch.testing.assert_close(squared_mmd(z, SCALES), exact, rtol=1e-6, atol=0)


def test_mmd_is_unbiased_at_the_prior_and_positive_away_from_it():
    generator = torch.Generator().manual_seed(0)
    values = [squared_mmd(torch.randn(32, 3, generator=generator, dtype=torch.float64), SCALES) for _ in range(400)]
    mean, error = torch.stack(values).mean(), torch.stack(values).std() / 20
    assert abs(mean) < 4 * error
    assert squared_mmd(torch.zeros(32, 3, dtype=torch.float64), SCALES) > 0.05
    assert squared_mmd(2 + torch.zeros(1, 3, dtype=torch.float64), SCALES).isfinite()


def test_the_estimate_from_draws_is_unbiased_with_the_closed_form_as_its_mean():
    generator = torch.Generator().manual_seed(0)
    z = 0.5 + 1.5 * torch.randn(16, 3, generator=generator, dtype=torch.float64)
    draws = torch.randn(4000, 16, 3, generator=generator, dtype=torch.float64)
    values = torch.stack([sampled_squared_mmd(z, y, SCALES) for y in draws])
    error = values.std() / len(values) ** 0.5
    assert abs(values.mean() - squared_mmd(z, SCALES)) < 4 * error
    assert error < 0.02 * squared_mmd(z, SCALES)


def test_the_estimate_is_unbiased_where_a_code_depends_on_its_draw():
    """As in a conditional model, where the label of an example determines both."""
    y = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert abs(sampled_squared_mmd(y, y, SCALES)) < 1e-12


def model_of(prior, latent_dim=3):
    prior = vaekit.priors.build(
        vaekit.priors.spec(prior)(kind=prior),
        latent_dim=latent_dim,
        latent_shape=(latent_dim,),
        data_shape=(1, 4, 4),
        code_sizes=(),
    )
    encoder = vaekit.encoders.get("mlp")((1, 4, 4), (2, latent_dim), hidden=(8,))
    return vaekit.VAE(encoder, vaekit.decoders.get("mlp")((latent_dim,), (1, 4, 4), hidden=(8,)), prior=prior)


@pytest.mark.parametrize("prior", ["mixture", "vamp"])
def test_mmd_draws_from_the_prior_of_the_model(prior):
    torch.manual_seed(0)
    vae, loss, x = model_of(prior), vaekit.losses.get("mmd")(), torch.rand(5, 1, 4, 4)
    noise = loss.draw_noise(5, torch.Generator().manual_seed(0), like=x, model=vae)
    trace = vae(x, draws={"mmd": noise})
    value = loss(trace)
    y = vae.prior(vae).rsample(vae.prior.draw_noise(5, torch.Generator().manual_seed(0), like=x))
    torch.testing.assert_close(value, 100 * sampled_squared_mmd(trace.z, y, loss.scales))
    value.backward()
    assert all(parameter.grad is not None for name, parameter in vae.prior.named_parameters() if name != "logits")


def test_mmd_draws_nothing_from_a_standard_normal():
    vae, loss, x = model_of("normal"), vaekit.losses.get("mmd")(), torch.rand(5, 1, 4, 4)
    assert loss.draw_noise(5, like=x, model=vae) is None
    trace = vae(x)
    torch.testing.assert_close(loss(trace), 100 * squared_mmd(trace.z, loss.scales))


def test_mmd_explains_how_to_draw_if_the_trace_has_no_draws():
    with pytest.raises(vaekit.VaekitError, match=r"the trace has none(.|\n)*GaussianMixture(.|\n)*draws=\{\"mmd\""):
        vaekit.losses.get("mmd")()(model_of("mixture")(torch.rand(2, 1, 4, 4)))


def test_the_inverse_multiquadratic_kernel_matches_wae():
    """``C / (C + |a - b|²)`` with ``C = 2 D s²``, for the scales s, averaged over pairs of different examples."""
    a, b = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kernels = [c / (c + torch.cdist(a, b).square()) for c in 2 * 3 * SCALES.square()]
    expected = torch.stack(kernels).mean(0)
    expected.fill_diagonal_(0)
    torch.testing.assert_close(mean_kernel(a, b, SCALES, "imq"), expected.sum() / 30)
    far = (30 + a).requires_grad_()
    rbf, imq = (torch.autograd.grad(mean_kernel(far, b, SCALES, kernel), far)[0].abs().max() for kernel in ("rbf", "imq"))
    assert imq > 1e-6
    assert rbf < 1e-30


def test_with_that_kernel_mmd_draws_from_a_standard_normal_too():
    vae, loss, x = model_of("normal"), vaekit.losses.get("mmd")(kernel="imq"), torch.rand(5, 1, 4, 4)
    noise = loss.draw_noise(5, torch.Generator().manual_seed(0), like=x, model=vae)
    trace = vae(x, draws={"mmd": noise})
    torch.testing.assert_close(loss(trace), 100 * sampled_squared_mmd(trace.z, noise, loss.scales, "imq"))
