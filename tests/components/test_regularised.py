"""Regularised autoencoders: the norms of codes, of the decoder's weights, and of its Jacobian."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vaekit
from vaekit import roles
from vaekit.data.facts import Facts
from vaekit.errors import UsageError
from vaekit.model.assembly import build_objective, build_vae
from vaekit.model.objective import Inputs, Objective
from vaekit.specs.options import build_spec

F64, SHAPE = torch.float64, (1, 4, 3)
SMALL = {"encoder.hidden": (8,), "decoder.hidden": (8,), "latent_dim": 2}


class Linear(vaekit.Backbone):
    """A linear decoder."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__((latent_dim,), SHAPE)
        self.linear = nn.Linear(latent_dim, 12)

    def forward(self, x: Tensor) -> Tensor:
        image: Tensor = self.linear(x)
        return image.unflatten(1, SHAPE)


def linear_vae(latent_dim: int = 3, *, orthogonal: bool = False) -> vaekit.VAE:
    """Return a model whose decoded images are a linear function of codes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder, encoder = Linear(latent_dim), vaekit.encoders.get("mlp")(SHAPE, (2, latent_dim), hidden=(8,))
        if orthogonal:
            nn.init.orthogonal_(decoder.linear.weight, gain=3.0)
    return vaekit.VAE(encoder, decoder, likelihood=vaekit.likelihoods.get("mse")(SHAPE, link="identity")).double()


def loss_of(kind: str, **options: Any) -> Any:
    return roles.losses.get(kind)(**options).double()


def images(num: int = 5) -> Tensor:
    return torch.rand(num, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=F64)


def signs(vae: vaekit.VAE, num: int, seed: int = 0) -> dict[str, Tensor]:
    loss, generator = loss_of("gradient_penalty"), torch.Generator().manual_seed(seed)
    return {"gradient_penalty": loss.draw_noise(num, generator, like=images(num), model=vae)}


def test_noise_consists_of_random_signs() -> None:
    drawn = signs(linear_vae(), 4000)["gradient_penalty"]
    assert drawn.shape == (4000, 3)
    assert set(drawn.unique().tolist()) == {-1, 1}
    assert abs(drawn.mean()) < 4 / 12_000**0.5


def test_the_estimate_is_unbiased_with_the_norm_of_the_jacobian_as_its_mean() -> None:
    vae = linear_vae()
    trace = vae(images(4000), draws=signs(vae, 4000))
    values, exact = loss_of("gradient_penalty", weight=1.0)(trace), vae.decoder.linear.weight.square().sum()
    assert values.shape == (4000,)
    assert abs(values.mean() - exact) < 4 * values.std() / 4000**0.5
    assert values.std() > 0.01 * exact
    every = torch.cartesian_prod(*3 * [torch.tensor([-1.0, 1.0], dtype=F64)])  # all signs there are
    mean = loss_of("gradient_penalty", weight=1.0)(vae(images(8), draws={"gradient_penalty": every})).mean()
    torch.testing.assert_close(mean, exact)


def test_one_direction_is_exact_if_latents_move_images_in_orthogonal_directions() -> None:
    vae = linear_vae(orthogonal=True)
    values = loss_of("gradient_penalty", weight=2.0)(vae(images(), draws=signs(vae, 5)))
    torch.testing.assert_close(values, torch.full((5,), 2 * 27.0, dtype=F64))  # D times the square of the gain


def objective_of(**options: Any) -> Objective:
    model = build_spec({}, {**SMALL, **options}).model
    facts = Facts(data_shape=SHAPE, class_names=("a", "b", "c"))
    return build_objective(model, build_vae(model, facts, seed=0).double(), num_data=100, seed=0).double()


@pytest.mark.parametrize("condition", ["none", "label"])
def test_the_penalty_and_its_gradient_are_those_of_autograds_jacobian(condition: str) -> None:
    """The gradients of the decoder's weights, through the derivative, and of the encoder's weights, through the codes."""
    objective = objective_of(posterior="delta", loss="gradient_penalty", weight=0.7, condition=condition)
    vae, x, y = objective.vae, images(), torch.tensor([0, 1, 2, 0, 1])
    drawn = signs(vae, 5)
    loss = objective.losses["gradient_penalty"]
    value = loss(vae(x, x.new_zeros(5, 2), y=y, draws=drawn))
    gradients = torch.autograd.grad(value.mean(), list(vae.parameters()), allow_unused=True)
    expected = []
    for i in range(5):
        z, c = vae.encode(x[i : i + 1], y[i : i + 1]).mean, vae.condition_on(y[i : i + 1])
        jacobian = torch.autograd.functional.jacobian(lambda code, c=c: vae.likelihood_of(code, c).mean, z, create_graph=True)
        expected.append(0.7 * (jacobian.reshape(12, 2) @ drawn["gradient_penalty"][i]).square().sum())
    torch.testing.assert_close(value, torch.stack(expected))
    wanted = torch.autograd.grad(torch.stack(expected).mean(), list(vae.parameters()), allow_unused=True)
    assert any(gradient is not None and gradient.any() for gradient in gradients)
    for (name, _), gradient, other in zip(vae.named_parameters(), gradients, wanted, strict=True):
        if other is None:
            assert gradient is None or not gradient.any(), name
        else:
            torch.testing.assert_close(gradient, other, msg=name)


def test_a_saturated_decoder_has_no_penalty() -> None:
    """The penalty smooths the images, not the decoder's output before the sigmoid."""
    vae = objective_of(posterior="delta", loss=["mse", "gradient_penalty"], latent_dim=2).vae
    with torch.no_grad():
        vae.decoder(torch.zeros(1, 2, dtype=F64))
        *_, last = (module for module in vae.decoder.modules() if isinstance(module, nn.Linear))
        last.bias.fill_(50)
    assert loss_of("gradient_penalty")(vae(images(), draws=signs(vae, 5))).max() < 1e-12


def test_several_samples_are_averaged() -> None:
    vae, x, noise = linear_vae(), images(), torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(1), dtype=F64)
    drawn = signs(vae, 5)
    for kind in ("gradient_penalty", "latent_norm", "decoder_norm"):
        each = torch.stack([loss_of(kind)(vae(x, one, draws=drawn)) for one in noise])
        torch.testing.assert_close(loss_of(kind)(vae(x, noise, draws=drawn)), each.mean(0))


def test_the_norm_of_codes_is_the_density_of_a_standard_normal_up_to_a_constant() -> None:
    trace = linear_vae()(images())
    difference = loss_of("latent_norm", weight=1.0)(trace) + trace.site.log_p
    torch.testing.assert_close(difference, difference[:1].expand(5))
    torch.testing.assert_close(loss_of("latent_norm", weight=0.2)(trace), 0.1 * trace.z.square().sum(-1))


def test_the_norm_of_the_decoder_is_that_of_its_matrices_and_its_gradient_decays_them() -> None:
    vae = linear_vae()
    value = loss_of("decoder_norm", weight=0.3)(vae(images()))
    weight, bias = vae.decoder.linear.weight, vae.decoder.linear.bias
    torch.testing.assert_close(value, (0.3 * weight.square().sum()).expand(5))
    own = torch.autograd.grad(value.mean(), [weight, bias, *vae.encoder.parameters()], allow_unused=True)
    torch.testing.assert_close(own[0], 0.6 * weight)
    assert all(gradient is None for gradient in own[1:])


@pytest.mark.parametrize("losses", [["latent_norm", "decoder_norm"], ["latent_norm", "gradient_penalty"]])
def test_a_regularised_autoencoder_is_one_player(losses: list[str]) -> None:
    objective = objective_of(posterior="delta", loss=["mse", *losses])
    assert [player.aims for player in objective.players] == [("reconstruction", *losses)]
    x = images()
    total, terms, _ = objective(Inputs(x, x, x.new_zeros(5, 2), torch.zeros(()), draws=signs(objective.vae, 5)))
    torch.testing.assert_close(total.detach(), sum(terms[name] for name in ("reconstruction", *losses)))


def test_a_trace_without_draws_is_refused_with_a_remedy() -> None:
    with pytest.raises(UsageError, match=r"the trace has none(.|\n)*draws=\{\"gradient_penalty"):
        loss_of("gradient_penalty")(linear_vae()(images()))
