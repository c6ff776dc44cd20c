"""The autoencoder of latent diffusion: sizes, attention, checkpointing and validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from listener import Listener
from torch import Tensor, nn
from torch.nn import functional as F

import vaekit
from vaekit.errors import UsageError
from vaekit.interfaces import Shape
from vaekit.nn.ldm import Attention, Residual, attend, groups_of
from vaekit.roles import decoders, encoders


def pair(data_shape: Shape, latent_shape: Shape, **options: Any) -> tuple[nn.Module, nn.Module]:
    options = {"channels": (8, 16, 16), **options}
    params = (2, *latent_shape)
    return (
        encoders.get("ldm")(data_shape, params, **options).double(),
        decoders.get("ldm")(latent_shape, data_shape, **options).double(),
    )


@pytest.mark.parametrize(
    ("data_shape", "latent_shape"),
    [((3, 32, 32), (4, 8, 8)), ((1, 13, 18), (2, 4, 5)), ((1, 13, 18), (2, 7, 9)), ((1, 9, 7, 5), (2, 3, 2, 2)), ((3, 17), (5,))],
    ids=str,
)
def test_sides_that_the_stride_does_not_divide_are_rounded_up_and_cropped_back(data_shape: Shape, latent_shape: Shape):
    encoder, decoder = pair(data_shape, latent_shape)
    assert encoder(torch.rand(2, *data_shape).double()).shape == (2, 2, *latent_shape)
    assert decoder(torch.randn(2, *latent_shape).double()).shape == (2, *data_shape)


def test_the_networks_of_a_grid_take_images_of_other_sizes():
    encoder, decoder = pair((3, 16, 16), (4, 4, 4))
    params = encoder(torch.rand(1, 3, 40, 24).double())
    assert params.shape == (1, 2, 4, 10, 6)
    assert decoder(params[:, 0]).shape == (1, 3, 40, 24)


def test_depth_and_attention_set_the_blocks_of_each_stage():
    encoder, decoder = pair((3, 16, 16), (4, 4, 4), depth=3, attention=(2,))
    for network, blocks in ((encoder, 3), (decoder, 4)):
        residuals = [module for module in network.modules() if isinstance(module, Residual)]
        attentions = [module for module in network.modules() if isinstance(module, Attention)]
        assert len(residuals) == 3 * blocks + 2
        assert len(attentions) == blocks + 1  # one in the middle
    plain, _ = pair((3, 16, 16), (4, 4, 4), middle_attention=False)
    assert not any(isinstance(module, Attention) for module in plain.modules())


def test_a_single_position_has_no_attention():
    encoder, _ = pair((3, 4, 4), (2,))
    assert not any(isinstance(module, Attention) for module in encoder.modules())


@pytest.mark.parametrize("positions", [7, 513])
def test_attention_is_the_softmax_of_scaled_products(positions: int):
    q, k, v = torch.randn(3, 2, positions, 6, dtype=torch.float64)
    scores = torch.einsum("bic,bjc->bij", q, k) / 6**0.5
    expected = torch.einsum("bij,bjc->bic", scores.exp() / scores.exp().sum(-1, keepdim=True), v)
    torch.testing.assert_close(attend(q, k, v), expected)


def test_a_bias_of_the_keys_has_no_effect():
    q, k, v = torch.randn(3, 2, 9, 6, dtype=torch.float64)
    torch.testing.assert_close(attend(q, k + torch.randn(6).double(), v), attend(q, k, v))


def test_signed_networks_see_and_return_pixels_between_minus_one_and_one():
    signed, plain = pair((1, 8, 8), (2, 2, 2)), pair((1, 8, 8), (2, 2, 2), signed=False)
    for one, other in zip(signed, plain, strict=True):
        other.load_state_dict(one.state_dict())
    x, z = torch.rand(2, 1, 8, 8).double(), torch.randn(2, 2, 2, 2).double()
    torch.testing.assert_close(signed[0](x), plain[0](2 * x - 1))
    torch.testing.assert_close(signed[1](z), (plain[1](z) + 1) / 2)


def test_checkpointing_keeps_fewer_activations_and_changes_no_gradient():
    def gradients_and_kept(*, checkpointing: bool) -> tuple[list[Tensor], int]:
        torch.manual_seed(0)
        encoder, decoder = pair((3, 16, 16), (4, 4, 4), checkpointing=checkpointing)
        kept = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        x = torch.rand(2, 3, 16, 16).double()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = decoder(encoder(x)[:, 0])
        y.square().sum().backward()
        return [parameter.grad for network in (encoder, decoder) for parameter in network.parameters()], kept

    plain, many = gradients_and_kept(checkpointing=False)
    again, few = gradients_and_kept(checkpointing=True)
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other)
    assert few < many / 2


@pytest.mark.parametrize("loss", ["adversarial", "vae_gan"])
def test_a_model_with_several_players_trains_with_checkpointing(loss: str, tmp_path: Path):
    """In vae_gan, encoder and decoder are different players: each is a frozen view while the other is trained."""
    options = {"channels": (4, 8), "depth": 1, "checkpointing": True}
    runs = [
        vaekit.train(
            encoder={"kind": "ldm", **options, "checkpointing": on},
            decoder={"kind": "ldm", **options, "checkpointing": on},
            likelihood="mse",
            loss=[loss],
            latent_dim=2,
            latent_stride=2,
            dataset={"kind": "array", "path": str(few_images(tmp_path))},
            epochs=1,
            batch_size=8,
            pictures="none",
            out=tmp_path / f"run-{on}",
        )
        for on in (False, True)
    ]
    weights = [dict(run.vae().named_parameters()) for run in runs]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name])


def few_images(folder: Path, side: int = 8) -> Path:
    path = folder / f"images-{side}.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (40, side, side, 3), dtype=np.uint8))
    return path


@pytest.mark.parametrize(("side", "stride", "noted"), [(32, None, True), (32, 8, False), (31, None, False)])
def test_a_grid_is_recommended_for_colour_pictures(side: int, stride: int | None, noted: bool, tmp_path: Path):
    listener, path = Listener(), str(few_images(tmp_path, side))
    given: dict[str, Any] = {"encoder": "cnn", "encoder.channels": (4, 4, 4), "decoder.channels": (4, 4, 4), "latent_dim": 2}
    given |= {"latent_stride": stride, "epochs": 1, "batch_size": 16, "pictures": "none", "dataset": "array"}
    vaekit.train(**given, **{"dataset.path": path}, out=tmp_path / "run", reporter=listener)
    assert any("a grid of latents keeps their details" in note for note in listener.notes) == noted


@pytest.mark.parametrize(("side", "noted"), [(9, True), (8, False)])
def test_a_side_that_the_stride_does_not_divide_is_noted(side: int, noted: bool, tmp_path: Path):
    listener = Listener()
    given: dict[str, Any] = {"encoder": "ldm", "encoder.channels": (4, 8), "decoder.channels": (4, 8), "latent_dim": 2}
    given |= {"latent_stride": 2, "epochs": 1, "batch_size": 16, "pictures": "none", "dataset": "array"}
    path = str(few_images(tmp_path, side))
    run = vaekit.train(**given, **{"dataset.path": path}, out=tmp_path / "run", reporter=listener)
    assert any("does not divide 9×9: the grid of latents is that of 10×10" in note for note in listener.notes) == noted
    assert run.vae().latent_shape == (2, (side + 1) // 2, (side + 1) // 2)


def test_a_run_continues_at_another_size_from_the_weights_of_a_smaller_one(tmp_path: Path):
    network = {"kind": "ldm", "channels": (4, 8)}
    given: dict[str, Any] = {"encoder": network, "decoder": network, "likelihood": "l1", "latent_dim": 2, "latent_stride": 2}
    given |= {"epochs": 1, "batch_size": 16, "pictures": "none", "dataset": "array"}
    small = vaekit.train(**given, **{"dataset.path": str(few_images(tmp_path))}, out=tmp_path / "small")
    path = str(few_images(tmp_path, 16))
    large = vaekit.train(**given, **{"dataset.path": path}, init=small.path, lr=1e-12, out=tmp_path / "large")
    for name, weight in small.vae().state_dict().items():
        torch.testing.assert_close(large.vae().state_dict()[name], weight)
    grey = tmp_path / "grey.npy"
    np.save(grey, np.zeros((40, 8, 8), dtype=np.uint8))
    with pytest.raises(UsageError, match="other data") as error:
        vaekit.train(**given, **{"dataset.path": str(grey)}, init=small.path, out=tmp_path / "grey")
    assert error.value.given == "1 channels, 2 sides, values from 0 to 1"


def test_defaults_of_groups_are_those_of_stable_diffusion():
    assert groups_of((128, 256, 512, 512), None) == 32
    assert groups_of((32, 64, 128), None) == 8
    assert groups_of((6, 10), None) == 1
    with pytest.raises(UsageError, match="equal groups"):
        groups_of((32, 48), 32)
    assert groups_of((16, 32), 8) == 8


@pytest.mark.parametrize("latent_shape", [(4, 2, 2), (4, 6, 6)], ids=str)
def test_a_grid_that_does_not_match_the_stages_is_refused(latent_shape: Shape):
    for role, registry in (("encoder", encoders), ("decoder", decoders)):
        shapes = ((3, 16, 16), (2, *latent_shape)) if role == "encoder" else (latent_shape, (3, 16, 16))
        with pytest.raises(UsageError, match="does not reach the grid") as error:
            registry.get("ldm")(*shapes)
        assert "--latent-stride" in str(error.value.remedy)


def test_attention_needs_a_stage():
    for registry, shapes in ((encoders, ((3, 16, 16), (2, 4, 4, 4))), (decoders, ((4, 4, 4), (3, 16, 16)))):
        with pytest.raises(UsageError, match="stage that does not exist") as error:
            registry.get("ldm")(*shapes, attention=(2, 4))
        assert "from 1 to 3" in str(error.value.expected)


def test_groups_normalise_in_the_order_of_the_paper():
    block = Residual(2, 4, 6, 2).double()
    x = torch.randn(2, 4, 5, 5).double()
    h = block.conv1(F.silu(F.group_norm(x, 2, block.norm1.weight, block.norm1.bias, eps=1e-6)))
    h = block.conv2(F.silu(F.group_norm(h, 2, block.norm2.weight, block.norm2.bias, eps=1e-6)))
    torch.testing.assert_close(block(x), block.conv_shortcut(x) + h)
