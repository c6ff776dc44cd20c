"""The picture ``interpolate``."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from vaekit.data.specs import Fit
from vaekit.drawing.animation import Animation
from vaekit.drawing.options import ClassName, ImageName, Way
from vaekit.drawing.picture import Picture
from vaekit.drawing.subject import Subject
from vaekit.roles import pictures
from vaekit.schema import Few

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from vaekit.drawing.examples import Examples


@pictures("interpolate")
class Interpolate(Picture):
    """Interpolate between the codes of two images and, in conditional models, between their conditions.

    Args:
        way: Path: straight (in a curved space, the shortest path) or along a great circle; none shows both and animates the
            straight one.
        steps: Number of decoded images, both ends included.
        fit: How to fit images of another size; none rejects them.
        label: Class of image files, required for conditional models.
    """

    paths = ("pictures/interpolation.png",)

    def __init__(
        self,
        subject: Subject,
        a: ImageName,
        b: ImageName,
        *,
        way: Way | None = None,
        steps: Annotated[Few, Field(ge=2)] = 9,
        fit: Fit | None = None,
        label: ClassName | None = None,
    ) -> None:
        super().__init__(subject)
        self.a, self.b, self.way, self.steps, self.fit, self.label = a, b, way, steps, fit, label

    @cached_property
    def ends(self) -> Examples:
        """The two images."""
        a, b = (self.subject.images([each], self.fit, self.label).at(slice(1)) for each in (self.a, self.b))
        return a.followed_by(b)

    def still(self) -> Image:
        """Show a row for each type of path between the two images."""
        import torch

        from vaekit.drawing.axes import number
        from vaekit.drawing.grid import labelled
        from vaekit.drawing.latents import WAYS

        a, b = self.subject.vae.to_unit(self.ends.images)
        ways = [self.way] if self.way is not None else list(WAYS)
        images = torch.cat([torch.cat([a[None], self._decode(way).cpu(), b[None]]) for way in ways])
        heads = ["A", *(number(i / (self.steps - 1)) for i in range(self.steps)), "B"]
        return labelled(images, columns=self.steps + 2, rows=ways, heads=heads)

    def animation(self) -> Animation:
        from vaekit.drawing.grid import single_images
        from vaekit.drawing.tiles import LARGE

        return Animation(single_images(self._decode(self.way or "linear"), small=LARGE), milliseconds=80, hold=800)

    def _decode(self, way: Way) -> Tensor:
        """Return the images along the path, ``(steps, C, H, W)``."""
        import torch

        from vaekit.drawing.latents import decode_nearest, encode_means, linear, path

        vae, (first, last) = self.subject.vae, encode_means(self.subject.vae, self.ends)
        t, c = torch.linspace(0, 1, self.steps, device=first.device), vae.condition_on(self.ends.labels)
        return decode_nearest(vae, path(vae, way, first, last, t), None if c is None else linear(c[0], c[1], t))
