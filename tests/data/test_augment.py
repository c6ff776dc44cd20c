from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from vaekit.data import AugmentSpec
from vaekit.data.augment import NUM_DRAWS, _inverse_map, augment, resample

COLUMN = {name: i for i, name in enumerate(["rotate", "shear", "shift_x", "shift_y", "zoom", "flip_x", "flip_y", "crop"])}


def pictures(num: int = 4, channels: int = 1, height: int = 9, width: int = 13) -> torch.Tensor:
    return torch.rand(num, channels, height, width, generator=torch.Generator().manual_seed(0))


def draws(num: int, **chosen: float) -> torch.Tensor:
    """Draws that change only the chosen settings: 1/2 is the middle of a symmetric range."""
    u = torch.full((num, NUM_DRAWS), 0.5)
    for name, value in chosen.items():
        u[:, COLUMN[name]] = value
    return u


def random_draws(num: int) -> torch.Tensor:
    return torch.rand(num, NUM_DRAWS, generator=torch.Generator().manual_seed(1))


def turned(x: torch.Tensor, degrees: float, **settings) -> torch.Tensor:
    angle = torch.full((len(x),), math.radians(degrees))
    matrix = _inverse_map(angle, torch.zeros(len(x)), torch.ones(len(x)))
    return resample(x, matrix, torch.zeros(len(x), 2), **settings)


def test_the_defaults_are_off():
    x = pictures()
    assert AugmentSpec().is_off
    assert augment(x, AugmentSpec(), random_draws(4)) is x


@pytest.mark.parametrize(("height", "width"), [(9, 13), (12, 6), (7, 7)])
def test_a_quarter_turn_moves_pixels_exactly_even_if_sides_differ(height, width):
    x = pictures(height=height, width=width)
    side = min(height, width)

    def middle(picture: torch.Tensor) -> torch.Tensor:
        top, left = (picture.shape[-2] - side) // 2, (picture.shape[-1] - side) // 2
        return picture[..., top : top + side, left : left + side]

    torch.testing.assert_close(middle(turned(x, 90)), middle(x.rot90(1, (-2, -1))), rtol=0, atol=2e-5)
    torch.testing.assert_close(turned(x, 180), x.rot90(2, (-2, -1)), rtol=0, atol=2e-5)


def test_turning_is_rigid_on_a_picture_of_unequal_sides():
    rows, columns = torch.meshgrid(torch.arange(21.0) - 10, torch.arange(41.0) - 20, indexing="ij")
    disc = torch.sigmoid(4 * (6 - torch.hypot(rows, columns)))[None, None]
    torch.testing.assert_close(turned(disc, 37, fill="zeros"), disc, rtol=0, atol=0.15)  # bilinear edge only: 0.15 of a pixel
    assert abs(turned(disc, 37, fill="zeros").sum() / disc.sum() - 1) < 0.01


def test_magnifying_by_two_doubles_lengths():
    line = torch.zeros(1, 1, 11, 11)
    line[..., 5, 4:7] = 1
    zoomed = augment(line, AugmentSpec(scale=(2, 2)), draws(1))
    assert (zoomed[0, 0, 5] > 0.4).sum() == 7  # ±1 pixel to ±2, and half of the neighbours beyond
    assert zoomed[0, 0, 5, 5] == 1


def test_a_shift_is_a_fraction_of_the_side():
    x = pictures(height=10, width=20)
    moved = augment(x, AugmentSpec(translate=0.2, fill="zeros"), draws(4, shift_x=1.0, shift_y=0.0))
    torch.testing.assert_close(moved[..., :8, 4:], x[..., 2:, :-4], rtol=0, atol=1e-5)
    assert moved[..., :4].max() < 1e-5


def test_a_slant_moves_each_row_by_its_height():
    x = torch.zeros(1, 1, 9, 9)
    x[..., 4] = 1
    slanted = augment(x, AugmentSpec(shear=45, fill="zeros"), draws(1, shear=1.0))
    torch.testing.assert_close(slanted[0, 0], torch.eye(9), rtol=0, atol=1e-5)


def test_a_crop_shows_a_window_inside_the_picture():
    ramp = torch.arange(20.0).expand(500, 1, 20, 20)
    cropped = augment(ramp, AugmentSpec(crop=0.5, fill="zeros"), random_draws(500))
    lengths = cropped[:, 0, 10, -2] - cropped[:, 0, 10, 1]
    assert lengths.min() / 17 >= 0.49
    assert lengths.max() / 17 <= 1.01
    inside = cropped[:, 0, 1:-1, 1:-1]
    assert torch.allclose(inside, inside[:, :1], atol=1e-4)  # never the black outside


@pytest.mark.parametrize(("flip", "dims"), [("horizontal", {(3,)}), ("vertical", {(2,)}), ("both", {(2,), (3,), (2, 3)})])
def test_flips_move_pixels_exactly_and_half_of_the_pictures(flip, dims):
    x = pictures(400, 3)
    flipped = augment(x, AugmentSpec(flip=flip), random_draws(400))
    candidates = {(): x, **{axes: x.flip(axes) for axes in dims}}
    matches = {axes: (flipped == other).flatten(1).all(1) for axes, other in candidates.items()}
    assert torch.stack(list(matches.values())).sum(0).eq(1).all()
    for matched in matches.values():
        assert abs(matched.float().mean() - 1 / len(candidates)) < 0.1


def test_each_picture_has_its_own_draw():
    x = pictures(1).expand(16, -1, -1, -1)
    spec, u = AugmentSpec(rotate=40, shear=10, translate=0.1, scale=(0.8, 1.3), brightness=0.4), random_draws(16)
    together = augment(x, spec, u)
    assert len({tuple(picture.flatten().tolist()) for picture in together}) == 16
    alone = torch.cat([augment(x[i : i + 1], spec, u[i : i + 1]) for i in range(16)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_enabling_one_change_does_not_affect_the_draws_of_others():
    x, u = pictures(), random_draws(4)
    flipped = augment(x, AugmentSpec(flip="horizontal"), u)
    bright = augment(flipped, AugmentSpec(brightness=0.3), u)
    assert torch.equal(augment(x, AugmentSpec(flip="horizontal", brightness=0.3), u), bright)


def test_outside_is_the_edge_or_black():
    x = torch.ones(1, 1, 8, 8)
    u = draws(1, shift_x=1.0)
    assert augment(x, AugmentSpec(translate=0.5), u).min() > 0.999
    assert augment(x, AugmentSpec(translate=0.5, fill="zeros"), u).min() == 0


def test_colours_change_as_named():
    x = pictures(8, 3) * 0.5 + 0.2
    u = random_draws(8)
    brighter = augment(x, AugmentSpec(brightness=0.2), u) / x
    assert brighter.flatten(1).std(1).max() < 1e-6
    assert brighter.min() >= 0.8
    assert brighter.max() <= 1.2
    grey = augment(x.mean(1, keepdim=True).expand(-1, 3, -1, -1), AugmentSpec(saturation=1), u)
    torch.testing.assert_close(grey, x.mean(1, keepdim=True).expand(-1, 3, -1, -1))  # grey has no saturation to change
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    contrasted = augment(x, AugmentSpec(contrast=0.3), u)
    torch.testing.assert_close((contrasted * weights).sum(1).mean((1, 2)), (x * weights).sum(1).mean((1, 2)))
    assert not torch.allclose(contrasted, x, atol=1e-3)


@pytest.mark.parametrize(
    "wrong", [{"rotate": -1}, {"scale": (1.2, 0.8)}, {"scale": (0, 1)}, {"crop": 0}, {"flip": "left"}, {"zoom": 2}]
)
def test_a_wrong_setting_is_refused(wrong):
    with pytest.raises(ValidationError):
        AugmentSpec(**wrong)
