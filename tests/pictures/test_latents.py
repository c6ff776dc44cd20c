"""Paths, planes and orders in the latent space."""

import math

import pytest
import torch

from vaekit.components.pictures.manifold import quantile_grid
from vaekit.components.pictures.morph import examples_of_classes
from vaekit.components.pictures.traverse import steps_of_quantiles, steps_of_sigma
from vaekit.drawing.axes import Axes
from vaekit.drawing.latents import Spread, check_dims, latent_plane, linear, order_by_information, principal_plane, spherical
from vaekit.drawing.scatter import _ellipse, scatter_picture
from vaekit.errors import UsageError

T = torch.linspace(0, 1, 5)


@pytest.mark.parametrize("path", [linear, spherical])
def test_paths_have_the_requested_ends(path):
    a, b = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    way = path(a, b, T)
    torch.testing.assert_close(way[0], a)
    torch.testing.assert_close(way[-1], b)


def test_a_great_circle_keeps_the_norm():
    a, b = torch.nn.functional.normalize(torch.randn(2, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    torch.testing.assert_close(spherical(a, b, T).norm(dim=1), torch.ones(5))


@pytest.mark.parametrize("b", [[2.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
def test_without_a_great_circle_the_path_is_straight(b):
    a, b = torch.tensor([1.0, 0.0]), torch.tensor(b)
    torch.testing.assert_close(spherical(a, b, T), linear(a, b, T))


def test_principal_axes_are_those_of_largest_variance_and_as_long_as_the_spread():
    codes = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0, 2.0]) + 3
    plane = principal_plane(codes)
    torch.testing.assert_close(plane.axes.abs(), torch.tensor([[0.0, 5, 0], [0, 0, 2]]), atol=0.25, rtol=0)
    coordinates = plane.coordinates(codes)
    torch.testing.assert_close(coordinates.std(0), torch.ones(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(coordinates.mean(0), torch.zeros(2), atol=1e-3, rtol=0)


def test_coordinates_in_chosen_latents_are_the_latents_themselves():
    codes = torch.randn(10, 4)
    plane = latent_plane(Spread(torch.full((4,), 7.0), torch.ones(4)), [3, 1])
    torch.testing.assert_close(plane.coordinates(codes), codes[:, [3, 1]])
    assert plane.names == ("z3", "z1")


def test_the_manifold_stops_at_equal_steps_of_probability():
    values = quantile_grid(4, Spread(torch.tensor([1.0]), torch.tensor([2.0])))[:, 0]
    below = 0.5 * (1 + torch.erf((values - 1) / 2 / math.sqrt(2)))
    torch.testing.assert_close(below, torch.tensor([0.125, 0.375, 0.625, 0.875]))


def test_an_ellipse_of_two_sd_contains_86_percent_of_a_gaussian():
    draws = torch.randn(20000, 2, generator=torch.Generator().manual_seed(0)) @ torch.tensor([[2.0, 1.0], [0.0, 0.5]])
    outline = _ellipse(draws, corners=400)
    inverse = torch.linalg.inv(torch.cov(draws.T))
    radius = ((outline - draws.mean(0)) @ inverse * (outline - draws.mean(0))).sum(1).sqrt()
    torch.testing.assert_close(radius, torch.full_like(radius, 2.0), atol=1e-3, rtol=0)


def test_ellipses_lie_within_the_axes(monkeypatch):
    pixels, line = [], Axes.line

    def watched(self, points, *more):
        pixels.extend((x - self.left, y - self.top, self.side) for x, y in points)
        line(self, points, *more)

    points, generator = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5, 0.2]]), torch.Generator().manual_seed(0)
    draws = points[:2] + 3 * torch.randn(100, 2, 2, generator=generator)
    monkeypatch.setattr(Axes, "line", watched)
    scatter_picture(points, torch.tensor([0, 1, 1]), None, plane=None, title="", draws=draws)
    assert len(pixels) >= 2 * 41
    assert all(0 <= x <= side and 0 <= y <= side for x, y, side in pixels)


def test_latents_are_ordered_by_kl_else_by_the_variance_of_codes():
    codes = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 3.0, 0.1])
    assert order_by_information([0.1, 0.2, 5.0], codes) == [2, 1, 0]
    assert order_by_information(None, codes) == [1, 0, 2]


def test_steps_are_standard_deviations_or_quantiles():
    spread = Spread(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 1.0]))
    values, names = steps_of_sigma(spread, 3.0, 3)
    assert values.tolist() == [[-5.0, -3.0], [1.0, 0.0], [7.0, 3.0]]
    assert names == ("-3 sd", "0 sd", "3 sd")
    values, names = steps_of_quantiles(torch.arange(101.0)[:, None], 3)
    torch.testing.assert_close(values[:, 0], torch.tensor([1.0, 50.0, 99.0]))
    assert names == ("1 %", "50 %", "99 %")


@pytest.mark.parametrize("dims", [[3], [-1], [0, 0]])
def test_nonexistent_latents_are_refused(dims):
    with pytest.raises(UsageError, match="invalid latents"):
        check_dims(dims, 3)


def test_the_example_of_a_class_is_its_most_central_image():
    codes = torch.tensor([[0.0], [1.0], [5.0], [9.0], [8.0]])
    assert examples_of_classes(codes, torch.tensor([7, 7, 7, 2, 2])) == {2: 3, 7: 1}
