"""The VampPrior: a mixture of the posteriors of pseudo-inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vaekit.data.facts import Facts
from vaekit.data.sources import Splits, TensorImages
from vaekit.distributions import DiagonalGaussian, MixtureOf
from vaekit.errors import UsageError
from vaekit.model.assembly import assemble, build_vae, initial_state
from vaekit.model.vae import VAE
from vaekit.specs.options import build_spec

F64 = torch.float64
SMALL: dict[str, Any] = {"prior": "vamp", "num_inputs": 5, "latent_dim": 2, "encoder.hidden": (8,), "decoder.hidden": (8,)}


def model(**more: Any) -> VAE:
    facts = Facts(data_shape=(1, 4, 3), class_names=("a", "b", "c"))
    return build_vae(build_spec({}, {**SMALL, **more}).model, facts, seed=0).double()


def images(num: int) -> Tensor:
    return torch.randint(256, (num, 1, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_its_density_is_the_mean_of_the_posteriors_of_its_inputs() -> None:
    vae = model()
    p: Any = vae.prior(vae)
    q = vae.encode(vae.prior.inputs.clamp(0, 1))  # type: ignore[union-attr,operator]
    z = torch.randn(7, 6, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    each = torch.stack([DiagonalGaussian(mu, logvar).log_prob(z) for mu, logvar in zip(q.mu, q.logvar, strict=True)])
    torch.testing.assert_close(p.log_prob(z), each.exp().mean(0).log())


def test_a_draw_is_of_the_component_that_its_noise_selects() -> None:
    mu = torch.tensor([[0.0], [100.0], [200.0], [300.0]], dtype=F64)
    mixture = MixtureOf(DiagonalGaussian(mu, torch.zeros_like(mu)))
    noise = torch.tensor([[0.5, 0.0], [-0.5, 0.26], [0.0, 0.74], [1.0, 0.99]], dtype=F64)
    assert torch.equal(mixture.rsample(noise), torch.tensor([[0.5], [99.5], [200.0], [301.0]], dtype=F64))


def test_the_encoder_is_trained_through_the_prior() -> None:
    vae = model()
    kl = vae(torch.rand(3, 1, 4, 3, dtype=F64)).sites[0]
    (gradient,) = torch.autograd.grad(kl.p.log_prob(kl.z.detach()).sum(), [next(vae.encoder.parameters())])
    assert gradient.abs().max() > 0


def test_inputs_start_at_training_images_with_their_labels() -> None:
    labels = torch.arange(40) % 3
    source = TensorImages(images(40), labels, ("a", "b", "c"))
    spec = build_spec({}, {**SMALL, "condition": "label", "binarize": "none", "likelihood": "bce"})
    state = initial_state(spec, assemble(spec, Splits(source, source, source)), source)
    found = [(source.images / 255 == each).flatten(1).all(1).nonzero().item() for each in state["vae.prior.inputs"]]
    assert len(set(found)) == 5
    assert state["vae.prior.labels"].tolist() == labels[found].tolist()


def test_inputs_stay_within_the_range_of_the_data() -> None:
    vae = model()
    with torch.no_grad():
        vae.prior.inputs.add_(100)  # type: ignore[union-attr,operator]
    ones = torch.ones(5, 1, 4, 3, dtype=F64)
    p: Any = vae.prior(vae)
    torch.testing.assert_close(p.parts.mean, vae.encode(ones).mean)


def test_pixels_beyond_the_range_of_the_data_have_a_gradient_that_can_bring_them_back() -> None:
    vae = model()
    inputs: Any = vae.prior.inputs  # type: ignore[union-attr]
    with torch.no_grad():
        inputs.copy_(torch.where(inputs > 0.5, 1.001, -0.001))  # after a step, for black-and-white images
    z = torch.zeros(1, 2, dtype=F64)
    p: Any = vae.prior(vae)
    (gradient,) = torch.autograd.grad(p.log_prob(z).sum(), [inputs])
    within = inputs.detach().clamp(0, 1).requires_grad_()
    (expected,) = torch.autograd.grad(MixtureOf(vae.encode(within)).log_prob(z).sum(), [within])
    assert (expected != 0).all()
    torch.testing.assert_close(gradient, expected)


def test_a_point_mass_has_no_mixture() -> None:
    with pytest.raises(UsageError, match="prior 'vamp' needs log_prob, which the posterior 'delta' does not provide"):
        build_spec({}, {**SMALL, "posterior": "delta"})
