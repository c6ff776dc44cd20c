"""Effects and validation of the options of the built-in encoders and decoders."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError
from small import small
from torch import Tensor, nn

from vaekit.errors import UsageError
from vaekit.interfaces import Backbone, Shape
from vaekit.nn import layers
from vaekit.registry import Registry
from vaekit.roles import decoders, encoders

ROLES: dict[str, Registry[Backbone]] = {"encoder": encoders, "decoder": decoders}
BACKBONES = [(role, kind) for role, registry in ROLES.items() for kind in registry.kinds()]
ODD = (3, 13, 18)
LATENT_DIM = 5
FORBIDDEN: list[dict[str, Any]] = [
    {"hidden": (0,)},
    {"hidden": "wide"},
    {"channels": ()},
    {"channels": (8, -1)},
    {"depth": 0},
    {"activation": "softplus"},
    {"normalization": "batch"},
    {"upsampling": "bicubic"},
    {"unheard_of": 1},
]

every_backbone = pytest.mark.parametrize(("role", "kind"), BACKBONES)


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def option_names(role: str, kind: str) -> set[str]:
    return set(ROLES[role].spec(kind).model_fields) - {"kind"}


def with_option(name: str, *, but: str = "") -> pytest.MarkDecorator:
    having = [(role, kind) for role, kind in BACKBONES if name in option_names(role, kind) and kind != but]
    return pytest.mark.parametrize(("role", "kind"), having)


def shapes(role: str, data_shape: Shape) -> tuple[Shape, Shape]:
    return (data_shape, (2, LATENT_DIM)) if role == "encoder" else ((LATENT_DIM,), data_shape)


def build(role: str, kind: str, data_shape: Shape = ODD, **options: Any) -> Backbone:
    """A small backbone, built from its spec as in assembly."""
    spec = ROLES[role].spec(kind).model_validate({"kind": kind, **small(ROLES[role], kind), **options})
    in_shape, out_shape = shapes(role, data_shape)
    return ROLES[role].build(spec, in_shape=in_shape, out_shape=out_shape)


def inputs(backbone: Backbone, num: int = 3) -> Tensor:
    return torch.randn(num, *backbone.in_shape)


def parts(backbone: Backbone, *types: type[nn.Module]) -> list[Any]:
    return [module for module in backbone.modules() if isinstance(module, types)]


# Beyond the checks of vaekit.testing


@every_backbone
def test_untrained_default_backbones_distinguish_examples(role: str, kind: str):
    in_shape, out_shape = shapes(role, (1, 28, 28))
    backbone = ROLES[role].get(kind)(in_shape, out_shape)
    spread = backbone(inputs(backbone, 16)).std(dim=0).mean()
    assert 0.05 < spread < 5
    assert backbone.in_shape == in_shape
    assert backbone.out_shape == out_shape


# Validation


@every_backbone
@pytest.mark.parametrize("options", FORBIDDEN, ids=str)
def test_wrong_options_are_refused(role: str, kind: str, options: dict[str, Any]):
    (name,) = options
    with pytest.raises(ValidationError, match=name):
        ROLES[role].spec(kind).model_validate({"kind": kind, **options})


@with_option("channels")
@pytest.mark.parametrize("shape", [(784,), (1, 0), (1, 0, 28), (1, 2, 3, 4, 5)], ids=str)
def test_convolutional_backbone_refuses_vectors(role: str, kind: str, shape: Shape):
    with pytest.raises(UsageError, match="signals, images and volumes only") as error:
        build(role, kind, shape)
    assert str(shape) in str(error.value.given)
    assert "mlp" in str(error.value.remedy)
    assert kind in str(error.value)


@pytest.mark.parametrize("role", ROLES)
def test_mlp_takes_any_shape(role: str):
    backbone = build(role, "mlp", (7, 3, 2, 2))
    assert backbone(inputs(backbone)).shape == (3, *backbone.out_shape)


@pytest.mark.parametrize("width", [1, 2])
def test_normalising_a_single_value_is_refused(width: int):
    with pytest.raises(UsageError, match="fewer than 3"):
        build("encoder", "mlp", hidden=(width,), normalization="layer")


# Effects of options


@with_option("hidden")
def test_hidden_sets_the_widths_of_linear_layers(role: str, kind: str):
    backbone = build(role, kind, hidden=(9, 7, 6))
    assert [linear.out_features for linear in parts(backbone, nn.Linear)][:-1] == [9, 7, 6]
    assert len(parts(build(role, kind, hidden=()), nn.Linear)) == 1


@with_option("channels", but="ldm")
@pytest.mark.parametrize("channels", [(6,), (6, 3, 10)], ids=str)
@pytest.mark.parametrize("data_shape", [(1, 29), (1, 17, 29), (1, 5, 17, 9)], ids=str)
def test_channels_set_the_widths_of_feature_maps_and_the_halvings(
    role: str, kind: str, data_shape: Shape, channels: tuple[int, ...]
):
    backbone = build(role, kind, data_shape, channels=channels)
    maps: set[torch.Size] = set()
    for layer in backbone.modules():
        layer.register_forward_hook(
            lambda layer, args, output: maps.update(t.shape[1:] for t in (args[0], output) if t.ndim == 1 + len(data_shape))
        )
    backbone(inputs(backbone))
    maps.discard(torch.Size((2, LATENT_DIM)))  # an encoder's output
    assert {shape[0] for shape in maps} == {1, *channels}
    assert {tuple(shape[1:]) for shape in maps} == set(layers.halved_sizes(data_shape[1:], len(channels)))


@with_option("depth", but="ldm")
def test_depth_is_the_number_of_residual_blocks_per_stage(role: str, kind: str):
    for depth in (1, 3):
        backbone = build(role, kind, channels=(4, 8), depth=depth)
        assert len(parts(backbone, layers.ResidualBlock)) == 2 * depth


@with_option("activation")
def test_activations_give_different_functions_of_the_same_weights(role: str, kind: str):
    names = get_args(layers.Activation)
    backbones = [build(role, kind, activation=name) for name in names]
    x = inputs(backbones[0])
    for backbone in backbones[1:]:
        backbone.load_state_dict(backbones[0].state_dict())
    outputs = [backbone(x) for backbone in backbones]
    assert all(output.isfinite().all() for output in outputs)
    assert all(not torch.equal(a, b) for i, a in enumerate(outputs) for b in outputs[:i])


@with_option("normalization")
def test_normalization_is_over_whole_examples_or_groups_or_absent(role: str, kind: str):
    wide: dict[str, Any] = {"hidden": (32,), "channels": (16, 24)}
    options = {name: value for name, value in wide.items() if name in option_names(role, kind)}
    groups = {
        name: {norm.num_groups for norm in parts(build(role, kind, **options, normalization=name), nn.GroupNorm)}
        for name in get_args(layers.Normalization)
    }
    assert groups["none"] == set()
    assert groups["layer"] == {1}
    assert min(groups["group"]) > 1


@with_option("upsampling")
def test_upsampling_interpolates_as_named(role: str, kind: str):
    for data_shape, linear in (((2, 9), "linear"), (ODD, "bilinear"), ((2, 3, 5, 4), "trilinear")):
        for name, mode in (("nearest", "nearest"), ("bilinear", linear)):
            assert {layer.mode for layer in parts(build(role, kind, data_shape, upsampling=name), nn.Upsample)} == {mode}


# Shared layers


@pytest.mark.parametrize("width", [*range(3, 70), 96, 127, 128, 130, 256, 512, 1000])
def test_groups_divide_the_channels_and_have_at_least_eight(width: int):
    groups = layers.num_groups(width)
    assert width % groups == 0
    assert 1 <= groups <= 32
    assert groups == 1 or width // groups >= 8


def test_halved_sizes_match_strided_convolutions():
    for sides in ((150,), (150, 5), (7, 150, 5)):
        convolution = layers.CONVOLUTIONS[len(sides)](1, 1, 3, stride=2, padding=1)
        x = torch.zeros(1, 1, *sides)
        for size in layers.halved_sizes(sides, 8):
            assert x.shape[2:] == size
            x = convolution(x)


# Grids of latents


GRIDS = [((1, 64), (4, 16)), ((3, 64, 48), (4, 16, 12)), ((1, 16, 20, 12), (4, 4, 5, 3))]
"""Shapes of data, and of latents at every fourth position."""


def of_grid(role: str, kind: str, data_shape: Shape, latent_shape: Shape) -> Backbone:
    spec = ROLES[role].spec(kind).model_validate({"kind": kind, "channels": (4, 6, 8)})
    in_shape, out_shape = (data_shape, (2, *latent_shape)) if role == "encoder" else (latent_shape, data_shape)
    return ROLES[role].build(spec, in_shape=in_shape, out_shape=out_shape).double()


@pytest.mark.parametrize(("data_shape", "latent_shape"), GRIDS)
@with_option("channels", but="ldm")
def test_a_grid_of_latents_is_mapped_position_by_position(role: str, kind: str, data_shape: Shape, latent_shape: Shape) -> None:
    backbone = of_grid(role, kind, data_shape, latent_shape)
    assert not parts(backbone, nn.Linear)
    assert backbone(torch.randn(2, *backbone.in_shape, dtype=torch.float64)).shape == (2, *backbone.out_shape)


@pytest.mark.parametrize(("role", "kind"), [("encoder", "cnn"), ("decoder", "cnn"), ("decoder", "bilinear")])
def test_the_far_corner_of_a_grid_does_not_matter(role: str, kind: str) -> None:
    backbone = of_grid(role, kind, (1, 64, 64), (4, 16, 16))
    x = torch.randn(1, *backbone.in_shape, dtype=torch.float64)
    far = x.clone()
    far[..., -1, -1] += 1
    one, other = backbone(x), backbone(far)
    assert torch.equal(one[..., 0, 0], other[..., 0, 0])
    assert not torch.equal(one[..., -1, -1], other[..., -1, -1])


def test_other_grids_are_reached_through_linear_layers() -> None:
    backbone = of_grid("encoder", "cnn", (1, 28, 28), (3, 6, 6))
    assert parts(backbone, nn.Linear)
    assert backbone(torch.randn(2, 1, 28, 28, dtype=torch.float64)).shape == (2, 2, 3, 6, 6)


def test_a_decoder_of_a_grid_upsamples_as_late_as_possible() -> None:
    assert layers.upsampled_sizes((3, 7, 7), (28, 28), 4) == [(7, 7), (7, 7), (7, 7), (14, 14), (28, 28)]
    assert layers.upsampled_sizes((3,), (28, 28), 4) == [(2, 2), (4, 4), (7, 7), (14, 14), (28, 28)]
