"""The dataset passes vaekit's checks and does what it documents."""

import pytest
import torch
from vaekit_shapes.shapes import draw

from vaekit.testing import checks


@pytest.mark.parametrize("check", checks("dataset"))
def test_shapes_conform(check):
    check("shapes", options={"num_images": 100})


def test_shapes_have_the_correct_areas_and_positions():
    radius, middle = torch.full((3,), 0.25), torch.zeros(3, 2)
    images = draw(torch.arange(3), middle, radius, torch.zeros(3), 200).double() / 255
    areas = images.mean((1, 2, 3))
    exact = torch.tensor([torch.pi / 2, 2, 3**1.5 / 4], dtype=torch.float64) * 0.25**2
    torch.testing.assert_close(areas, exact, rtol=0.01, atol=0)
    turned = draw(torch.arange(3), middle + torch.tensor([0.1, -0.2]), radius, torch.ones(3), 200).double() / 255
    torch.testing.assert_close(turned.mean((1, 2, 3)), exact, rtol=0.01, atol=0)
    weights = turned[0, 0] / turned[0, 0].sum()
    axis = (torch.arange(200) + 0.5) / 200 - 0.5
    assert (weights.sum(1) @ axis.double()).item() == pytest.approx(0.1, abs=1e-3)
    assert (weights.sum(0) @ axis.double()).item() == pytest.approx(-0.2, abs=1e-3)
