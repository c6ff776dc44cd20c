"""The picture ``sample``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, NonNegativeFloat

from vaekit.drawing.options import ClassName
from vaekit.drawing.picture import Picture
from vaekit.drawing.subject import Subject
from vaekit.roles import pictures
from vaekit.schema import Count, Seed

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


Size = Annotated[tuple[Count, Count], Field(examples=["256,256"])]


@pictures("sample")
class Sample(Picture):
    """Draw images from the prior, as a grid or as separate files.

    Args:
        num: Number of images.
        seed: Random seed.
        temperature: Scale of the prior's noise; values below 1 reduce variety.
        label: Class to draw with a conditional model; none draws all classes, a column each.
        size: Height and width of the images; none uses the model's size, and other sizes, which need a grid of latents, are
            decoded in overlapping tiles.
        separate: Whether to write separate files instead of a grid.
    """

    section = "pictures"
    title = "Samples of the best weights"

    def __init__(
        self,
        subject: Subject,
        *,
        num: Count = 36,
        seed: Seed = 0,
        temperature: NonNegativeFloat = 1.0,
        label: ClassName | None = None,
        size: Size | None = None,
        separate: bool = False,
    ) -> None:
        super().__init__(subject)
        self.size = size
        self.num, self.seed, self.temperature, self.label = num, seed, temperature, label
        self.paths = (f"samples/seed-{seed}" if separate else f"samples/seed-{seed}.png",)

    def still(self) -> Image:
        from vaekit.drawing.grid import grid
        from vaekit.drawing.latents import num_columns

        return grid(self._draws(), columns=num_columns(self.subject.vae) if self.label is None else None)

    def files(self) -> dict[str, Image]:
        from vaekit.drawing.grid import single_images

        width = len(str(self.num - 1))
        return {f"{i:0{width}}.png": image for i, image in enumerate(single_images(self._draws(), small=1))}

    def alt(self) -> str:
        return f"{self.num} images decoded from draws of the prior, in a grid"

    def _draws(self) -> Tensor:
        import torch

        from vaekit.model.tiling import Tiling
        from vaekit.streams import Streams

        vae = self.subject.vae
        label = self.subject.chosen_class(self.label)
        y = None if label is None else torch.full((self.num,), label)
        draw = vae.sample if self.size is None else partial(Tiling(vae).sample, sides=self.size)
        draws = draw(self.num, y=y, temperature=self.temperature, generator=Streams(self.seed).generator("sample"))
        return vae.to_unit(draws)
