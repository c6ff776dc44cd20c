"""The picture ``reconstruct``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vaekit.data.specs import Fit
from vaekit.drawing.options import ImageName
from vaekit.drawing.picture import Picture
from vaekit.drawing.subject import Subject, is_number
from vaekit.roles import pictures

if TYPE_CHECKING:
    from PIL.Image import Image


@pictures("reconstruct")
class Reconstruct(Picture):
    """Encode and decode images, and show them above their reconstructions.

    Args:
        fit: How images of another size are fitted to the model's; none refuses them.
    """

    paths = ("reconstructions/given.png",)

    def __init__(self, subject: Subject, images: Sequence[ImageName], *, fit: Fit | None = None) -> None:
        super().__init__(subject)
        self.images, self.fit = images, fit

    def still(self) -> Image:
        """Show the test images first, then the files.

        Raises:
            DataError: A file is missing, unreadable, or of another size.
        """
        import torch

        from vaekit.drawing.grid import pairs
        from vaekit.drawing.latents import decode, encode_means

        vae = self.subject.vae
        numbers = [int(str(given)) for given in self.images if is_number(given)]
        files = [Path(str(given)) for given in self.images if not is_number(given)]
        parts = [self.subject.test(numbers).images] if numbers else []
        parts += [self.subject.files(files, self.fit)] if files or not numbers else []
        originals = torch.cat(parts)
        return pairs(vae.to_unit(originals), decode(vae, encode_means(vae, originals)))
