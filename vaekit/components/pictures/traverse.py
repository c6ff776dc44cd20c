"""The picture ``traverse``."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, NonNegativeFloat

from vaekit.data.specs import Fit
from vaekit.drawing.animation import Animation
from vaekit.drawing.options import ClassName, Dims, ImageName
from vaekit.drawing.picture import Picture
from vaekit.drawing.subject import NUM_CODES, Subject, is_number
from vaekit.roles import pictures
from vaekit.schema import Few

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from vaekit.drawing.latents import Spread

QUANTILES = (0.01, 0.99)
"""The range of a traversal along quantiles of the codes, which excludes outliers."""
FRAME_MS = 120


@pictures("traverse")
class Traverse(Picture):
    """Vary each latent in turn, most informative first, as a picture and as an animation.

    Args:
        dims: Indices of latents, from 0; none selects the most informative.
        num: Number of most informative latents, if `dims` is not set.
        steps: Number of images along each latent.
        sigmas: Range in either direction, in standard deviations of the prior.
        quantiles: Whether to range from the 1% to the 99% quantile of test codes instead.
        base: Image that provides the values of the other latents; none selects the first test image.
        fit: How to fit an image file of another size; none rejects it.
        label: Class of an image file, required for conditional models.
    """

    paths = ("pictures/traversal.png", "pictures/traversal.gif")
    section = "latents"
    title = "Traversals"

    def __init__(
        self,
        subject: Subject,
        *,
        dims: Dims | None = None,
        num: Few = 10,
        steps: Annotated[Few, Field(ge=2)] = 9,
        sigmas: NonNegativeFloat = 3.0,
        quantiles: bool = False,
        base: ImageName | None = None,
        fit: Fit | None = None,
        label: ClassName | None = None,
    ) -> None:
        super().__init__(subject)
        self.dims, self.num, self.steps, self.sigmas, self.quantiles = dims, num, steps, sigmas, quantiles
        self.base, self.fit, self.label = 0 if base is None else base, fit, label

    @cached_property
    def latents(self) -> list[int]:
        """The traversed latents, in order.

        Raises:
            UsageError: `dims` are not latents of the model.
        """
        from vaekit.drawing.latents import check_dims

        chosen = list(self.dims) if self.dims is not None else self.subject.order[: self.num]
        check_dims(chosen, self.subject.vae.latent_dim)
        return chosen

    @cached_property
    def positions(self) -> tuple[Tensor, tuple[str, ...]]:
        """The values of each latent at each step, ``(steps, D)``, and the labels of the steps."""
        if not self.quantiles:
            return steps_of_sigma(self.subject.spread, self.sigmas, self.steps)
        from vaekit.drawing.latents import encode_samples
        from vaekit.streams import Streams

        images = self.subject.test(range(self.subject.num_test(NUM_CODES)))
        draws = encode_samples(self.subject.vae, images, 1, Streams(self.subject.seed).generator("traverse"))
        return steps_of_quantiles(draws[0], self.steps)

    @cached_property
    def images(self) -> Tensor:
        """The decoded images, ``(latents, steps, C, H, W)``."""
        from vaekit.drawing.latents import decode_nearest, encode_means

        vae, latents, (values, _) = self.subject.vae, self.latents, self.positions
        given = self.subject.images([self.base], self.fit, self.label).at(slice(1))
        z = encode_means(vae, given).repeat(len(latents), self.steps, 1)
        for row, d in enumerate(latents):
            z[row, :, d] = values[:, d]
        images: Tensor = decode_nearest(vae, z.flatten(0, 1), vae.condition_on(given.labels)).unflatten(0, z.shape[:2])
        return images

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the traversed latents, with their KL in nats if known: ``z7 KL 1.3``."""
        kl = self.subject.kl_per_latent
        return tuple(f"z{d}" if kl is None else f"z{d} KL {kl[d]:.1f}" for d in self.latents)

    def still(self) -> Image:
        """Show a row for each latent."""
        from vaekit.drawing.grid import labelled

        what = "quantiles of the codes" if self.quantiles else "standard deviations of the prior"
        where = f"test image {self.base}" if is_number(self.base) else Path(str(self.base)).name
        images, (_, heads) = self.images.flatten(0, 1), self.positions
        return labelled(images, columns=self.steps, rows=self.names, heads=heads, title=f"{what}; all else as in {where}")

    def animation(self) -> Animation:
        """Show all latents step by step, back and forth."""
        from vaekit.drawing.grid import captioned

        order = [*range(self.steps), *range(self.steps - 2, 0, -1)]
        columns, (_, heads) = math.ceil(math.sqrt(len(self.latents))), self.positions
        frames = [captioned(self.images[:, i], self.names, columns=columns, title=heads[i]) for i in order]
        return Animation(frames, milliseconds=FRAME_MS, hold=FRAME_MS)

    def alt(self) -> str:
        return f"One row of images for each of the latents {', '.join(self.names)}"


def steps_of_sigma(spread: Spread, sigmas: float, steps: int) -> tuple[Tensor, tuple[str, ...]]:
    """Return the values ``(steps, D)`` from ``-sigmas`` to ``sigmas`` standard deviations, and the labels of the steps."""
    import torch

    from vaekit.drawing.axes import number

    t = torch.linspace(-sigmas, sigmas, steps, device=spread.mean.device)
    return spread.mean + t[:, None] * spread.std, tuple(f"{number(round(v, 2))} sd" for v in t.tolist())


def steps_of_quantiles(codes: Tensor, steps: int) -> tuple[Tensor, tuple[str, ...]]:
    """Return the values ``(steps, D)`` at quantiles of codes ``(N, D)``, and the labels of the steps."""
    import torch

    t = torch.linspace(*QUANTILES, steps, device=codes.device, dtype=codes.dtype)
    return torch.quantile(codes, t, dim=0), tuple(f"{100 * v:.0f} %" for v in t.tolist())
