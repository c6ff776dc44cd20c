"""The picture ``reconstruct``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vaekit.data.specs import Fit
from vaekit.drawing.options import ClassName, ImageName
from vaekit.drawing.picture import Picture
from vaekit.drawing.subject import Subject
from vaekit.errors import UsageError
from vaekit.roles import pictures

if TYPE_CHECKING:
    from PIL.Image import Image


@pictures("reconstruct")
class Reconstruct(Picture):
    """Show images above their reconstructions.

    Args:
        fit: How to fit images of another size; none rejects them.
        label: Class of image files, required for conditional models.
        tile: Whether to reconstruct image files at their own size, in overlapping tiles; the model must have a grid of latents.
    """

    paths = ("reconstructions/given.png",)

    def __init__(
        self,
        subject: Subject,
        images: Sequence[ImageName],
        *,
        fit: Fit | None = None,
        label: ClassName | None = None,
        tile: bool = False,
    ) -> None:
        super().__init__(subject)
        self.images, self.fit, self.label, self.tile = images, fit, label, tile
        if tile and fit is not None:
            raise UsageError("tiled images keep their size", given=f"tile and fit {fit}", remedy="omit one of them")

    def still(self) -> Image:
        """Show images in the order given, each above its reconstruction.

        Raises:
            DataError: A file is missing, unreadable, or of another size.
            UsageError: Tiling is requested, and the model has no grid of latents.
        """
        from vaekit.drawing.grid import pairs, side_by_side
        from vaekit.drawing.latents import decode, encode_means
        from vaekit.model.tiling import Tiling

        vae = self.subject.vae
        if self.tile:
            tiling = Tiling(vae)
            examples = self.subject.whole_images(self.images, self.label)
            return side_by_side([pairs(*map(vae.to_unit, (x, tiling.reconstruct(x, y)))) for x, y, _ in examples])
        given = self.subject.images(self.images, self.fit, self.label)
        return pairs(vae.to_unit(given.images), decode(vae, encode_means(vae, given), vae.condition_on(given.labels)))
