"""The picture ``reconstruct``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vaekit.data.specs import Fit
from vaekit.drawing.options import ClassName, ImageName
from vaekit.drawing.picture import Picture
from vaekit.drawing.subject import Subject
from vaekit.roles import pictures

if TYPE_CHECKING:
    from PIL.Image import Image


@pictures("reconstruct")
class Reconstruct(Picture):
    """Encode and decode images, and show them above their reconstructions.

    Args:
        fit: How images of another size are fitted to the model's; none refuses them.
        label: Class of image files, required for conditional models.
    """

    paths = ("reconstructions/given.png",)

    def __init__(
        self, subject: Subject, images: Sequence[ImageName], *, fit: Fit | None = None, label: ClassName | None = None
    ) -> None:
        super().__init__(subject)
        self.images, self.fit, self.label = images, fit, label

    def still(self) -> Image:
        """Show images in the order given, each above its reconstruction.

        Raises:
            DataError: A file is missing, unreadable, or of another size.
        """
        from vaekit.drawing.grid import pairs
        from vaekit.drawing.latents import decode, encode_means

        vae = self.subject.vae
        given = self.subject.images(self.images, self.fit, self.label)
        return pairs(vae.to_unit(given.images), decode(vae, encode_means(vae, given), vae.condition_on(given.labels)))
