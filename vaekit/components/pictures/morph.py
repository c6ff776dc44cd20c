"""The picture ``morph``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaekit.drawing.animation import Animation
from vaekit.drawing.options import Way
from vaekit.drawing.picture import Picture
from vaekit.drawing.subject import Subject
from vaekit.roles import pictures
from vaekit.schema import Few

if TYPE_CHECKING:
    from torch import Tensor

FRAME_MS = 60


@pictures("morph")
class Morph(Picture):
    """Animate a closed path through the most central test image of each class.

    Args:
        way: Path: straight (in a curved space, the shortest path) or along great circles.
        steps: Number of images between consecutive classes.
    """

    def __init__(self, subject: Subject, *, way: Way = "linear", steps: Few = 12) -> None:
        super().__init__(subject)
        self.way, self.steps = way, steps

    def animation(self) -> Animation:
        """Draw the closed path.

        Raises:
            DataError: The dataset has no labels.
        """
        import torch

        from vaekit.drawing.grid import single_images
        from vaekit.drawing.latents import decode_nearest, linear, path
        from vaekit.drawing.tiles import LARGE

        labels = self.subject.labels("morph")
        codes = self.subject.codes
        vae, found = self.subject.vae, examples_of_classes(codes, labels[: len(codes)])
        stations, c = codes[list(found.values())], vae.condition_on(torch.tensor(list(found)))
        t = torch.arange(self.steps, device=stations.device) / self.steps
        legs = [path(vae, self.way, a, b, t) for a, b in zip(stations, stations.roll(-1, 0), strict=True)]
        conditions = None if c is None else torch.cat([linear(*ends, t) for ends in zip(c, c.roll(-1, 0), strict=True)])
        images = decode_nearest(vae, torch.cat(legs), conditions)
        return Animation(single_images(images, small=LARGE), milliseconds=FRAME_MS, hold=FRAME_MS)


def examples_of_classes(codes: Tensor, labels: Tensor) -> dict[int, int]:
    """Return, by label, the index of the most central image: the one closest to the mean code of its class."""
    found = {}
    for label in labels.unique().tolist():
        members = (labels == label).nonzero()[:, 0]
        distances = (codes[members] - codes[members].mean(0)).square().sum(-1)
        found[label] = int(members[distances.argmin()])
    return found
