"""The picture ``variations``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaekit.drawing.picture import Picture
from vaekit.drawing.subject import Subject
from vaekit.files import file_names
from vaekit.roles import pictures
from vaekit.schema import Few, Seed

if TYPE_CHECKING:
    from PIL.Image import Image


@pictures("variations")
class Variations(Picture):
    """Decode posterior samples for a test image of each class: ``LABEL/I.png`` and ``grid.png``.

    Args:
        per_class: Number of variations per class.
        seed: Random seed.
    """

    def __init__(self, subject: Subject, *, per_class: Few = 10, seed: Seed = 0) -> None:
        super().__init__(subject)
        self.per_class, self.seed = per_class, seed

    def files(self) -> dict[str, Image]:
        """Draw each variation separately and all in a grid.

        Raises:
            DataError: The dataset has no labels.
        """
        import torch

        from vaekit.drawing.grid import labelled, single_images
        from vaekit.drawing.latents import decode, encode_samples
        from vaekit.streams import Streams

        labels = self.subject.labels("variations")
        generator = Streams(self.seed).generator("variations")
        picks = []
        for label in labels.unique().tolist():
            members = (labels == label).nonzero()[:, 0]
            picks.append(int(members[torch.randint(len(members), (), generator=generator)]))
        test = self.subject.test(picks)
        noise = Streams(self.seed).generator("variations/noise")
        vae = self.subject.vae
        draws, c = encode_samples(vae, test, self.per_class, noise), vae.condition_on(test.labels)
        c = None if c is None else c.repeat_interleave(self.per_class, 0)
        images = decode(vae, draws.transpose(0, 1).flatten(0, 1), c).unflatten(0, (len(picks), self.per_class))
        assert test.labels is not None
        names = [test.name(label) for label in test.labels.tolist()]
        files = {}
        for folder, row in zip(file_names(names, taken=["grid.png"]), images, strict=True):
            files.update({f"{folder}/{i}.png": image for i, image in enumerate(single_images(row, small=1))})
        rows = torch.cat([self.subject.vae.to_unit(test.images)[:, None], images], 1).flatten(0, 1)
        heads = ["given", *map(str, range(self.per_class))]
        return {**files, "grid.png": labelled(rows, columns=self.per_class + 1, rows=names, heads=heads)}
