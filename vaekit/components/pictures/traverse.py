"""The picture ``traverse``."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, NonNegativeFloat, PositiveInt

from vaekit.data.specs import Fit
from vaekit.pictures.animation import Animation
from vaekit.pictures.options import Dims, ImageName
from vaekit.pictures.picture import Picture
from vaekit.pictures.subject import NUM_CODES, Subject, is_number
from vaekit.roles import pictures

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from vaekit.pictures.latents import Spread

QUANTILES = (0.01, 0.99)
"""Between which quantiles of the codes a latent moves where that is asked for; beyond them are few codes."""
FRAME_MS = 120


@pictures("traverse")
class Traverse(Picture):
    """Show what each latent does, the most informative first, as a picture and as an animation.

    Args:
        dims: Latents by number, counted from 0; none takes the most informative.
        num: How many of the most informative latents, where none are named.
        steps: Images along each latent.
        sigmas: How far to both sides, in standard deviations of the prior.
        quantiles: Go from the 1 % to the 99 % quantile of the test images' codes instead.
        base: Image at whose code the other latents stay; none takes the first test image.
        fit: How an image file of another size is brought to the model's; none refuses it.
    """

    paths = ("pictures/traversal.png", "pictures/traversal.gif")
    section = "latents"
    title = "Traversals"

    def __init__(
        self,
        subject: Subject,
        *,
        dims: Dims | None = None,
        num: PositiveInt = 10,
        steps: Annotated[int, Field(ge=2)] = 9,
        sigmas: NonNegativeFloat = 3.0,
        quantiles: bool = False,
        base: ImageName | None = None,
        fit: Fit | None = None,
    ) -> None:
        super().__init__(subject)
        self.dims, self.num, self.steps, self.sigmas, self.quantiles = dims, num, steps, sigmas, quantiles
        self.base, self.fit = 0 if base is None else base, fit

    @cached_property
    def latents(self) -> list[int]:
        """The latents that move, in order.

        Raises:
            UsageError: Those asked for are not latents of the model.
        """
        from vaekit.pictures.latents import check_dims

        chosen = list(self.dims) if self.dims is not None else self.subject.order[: self.num]
        check_dims(chosen, self.subject.vae.latent_dim)
        return chosen

    @cached_property
    def stops(self) -> tuple[Tensor, tuple[str, ...]]:
        """Where latents stop on their way, ``(steps, D)``, and what each stop is called."""
        if not self.quantiles:
            return steps_of_sigma(self.subject.spread, self.sigmas, self.steps)
        from vaekit.pictures.latents import encode_samples
        from vaekit.streams import Streams

        images = self.subject.test(range(self.subject.num_test(NUM_CODES))).images
        draws = encode_samples(self.subject.vae, images, 1, Streams(self.subject.seed).generator("traverse"))
        return steps_of_quantiles(draws[0], self.steps)

    @cached_property
    def images(self) -> Tensor:
        """The decoded images, ``(latents, steps, C, H, W)``."""
        from vaekit.pictures.latents import decode, encode_means

        vae, latents, (values, _) = self.subject.vae, self.latents, self.stops
        base = encode_means(vae, self.subject.image(self.base, self.fit)[None])
        z = base.repeat(len(latents), self.steps, 1)
        for row, d in enumerate(latents):
            z[row, :, d] = values[:, d]
        images: Tensor = decode(vae, z.flatten(0, 1)).unflatten(0, z.shape[:2])
        return images

    @property
    def names(self) -> tuple[str, ...]:
        """What the latents that move are called, with their KL in nats where it is known: ``z7 KL 1.3``."""
        kl = self.subject.kl_per_latent
        return tuple(f"z{d}" if kl is None else f"z{d} KL {kl[d]:.1f}" for d in self.latents)

    def still(self) -> Image:
        """Show a row for each latent."""
        from vaekit.pictures.grid import labelled

        what = "quantiles of the codes" if self.quantiles else "standard deviations of the prior"
        where = f"test image {self.base}" if is_number(self.base) else Path(str(self.base)).name
        images, (_, heads) = self.images.flatten(0, 1), self.stops
        return labelled(images, columns=self.steps, rows=self.names, heads=heads, title=f"{what}; all else as in {where}")

    def animation(self) -> Animation:
        """Show all latents at each step, there and back."""
        from vaekit.pictures.grid import captioned

        order = [*range(self.steps), *range(self.steps - 2, 0, -1)]
        columns, (_, heads) = math.ceil(math.sqrt(len(self.latents))), self.stops
        frames = [captioned(self.images[:, i], self.names, columns=columns, title=heads[i]) for i in order]
        return Animation(frames, milliseconds=FRAME_MS, hold=FRAME_MS)

    def alt(self) -> str:
        return f"One row of images for each of the latents {', '.join(self.names)}"


def steps_of_sigma(spread: Spread, sigmas: float, steps: int) -> tuple[Tensor, tuple[str, ...]]:
    """Return the values ``(steps, D)`` from ``-sigmas`` to ``sigmas`` standard deviations, and what each step is called."""
    import torch

    from vaekit.pictures.drawing import number

    t = torch.linspace(-sigmas, sigmas, steps, device=spread.mean.device)
    return spread.mean + t[:, None] * spread.std, tuple(f"{number(round(v, 2))} sd" for v in t.tolist())


def steps_of_quantiles(codes: Tensor, steps: int) -> tuple[Tensor, tuple[str, ...]]:
    """Return the values ``(steps, D)`` at quantiles of codes ``(N, D)``, and what each step is called."""
    import torch

    t = torch.linspace(*QUANTILES, steps, device=codes.device, dtype=codes.dtype)
    return torch.quantile(codes, t, dim=0), tuple(f"{100 * v:.0f} %" for v in t.tolist())
