"""What each latent does: the decoder's answer while one of them moves and the others stay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vaekit.model.vae import VAE
from vaekit.pictures.drawing import number
from vaekit.pictures.grid import captioned, labelled
from vaekit.pictures.latents import Spread, decode

if TYPE_CHECKING:
    from PIL import Image

QUANTILES = (0.01, 0.99)
"""Between which quantiles of the codes a latent moves where that is asked for; beyond them are few codes."""


@dataclass(frozen=True)
class Traversal:
    """Images along latents.

    Args:
        images: ``(latents, steps, C, H, W)``.
        rows: What each latent is called.
        heads: What each step is called.
        about: What the steps are.
    """

    images: Tensor
    rows: tuple[str, ...]
    heads: tuple[str, ...]
    about: str

    def picture(self) -> Image.Image:
        """Show a row for each latent."""
        steps = self.images.shape[1]
        return labelled(self.images.flatten(0, 1), columns=steps, rows=self.rows, heads=self.heads, title=self.about)

    def frames(self) -> list[Image.Image]:
        """Show all latents at each step, there and back."""
        steps = self.images.shape[1]
        order = [*range(steps), *range(steps - 2, 0, -1)]
        columns = math.ceil(math.sqrt(len(self.rows)))
        return [captioned(self.images[:, i], self.rows, columns=columns, title=self.heads[i]) for i in order]


def order_by_information(kl_per_latent: Sequence[float] | None, codes: Tensor) -> list[int]:
    """Return the latents, the most informative first: by KL, or by the variance of the codes where there is no KL."""
    values = codes.var(0, correction=0) if kl_per_latent is None else torch.tensor(kl_per_latent)
    return [int(i) for i in values.argsort(descending=True, stable=True)]


def steps_of_sigma(spread: Spread, sigmas: float, steps: int) -> tuple[Tensor, tuple[str, ...]]:
    """Return the values ``(steps, D)`` from ``-sigmas`` to ``sigmas`` standard deviations, and what each is called."""
    t = torch.linspace(-sigmas, sigmas, steps, device=spread.mean.device)
    return spread.mean + t[:, None] * spread.std, tuple(f"{number(round(v, 2))} sd" for v in t.tolist())


def steps_of_quantiles(codes: Tensor, steps: int) -> tuple[Tensor, tuple[str, ...]]:
    """Return the values ``(steps, D)`` at quantiles of codes ``(N, D)``, and what each is called."""
    t = torch.linspace(*QUANTILES, steps, device=codes.device, dtype=codes.dtype)
    return torch.quantile(codes, t, dim=0), tuple(f"{100 * v:.0f} %" for v in t.tolist())


def traverse(vae: VAE, base: Tensor, dims: Sequence[int], values: Tensor) -> Tensor:
    """Decode ``base`` ``(D,)`` with each latent of ``dims`` in turn at its ``values`` ``(steps, D)``.

    Returns:
        ``(len(dims), steps, C, H, W)``.
    """
    z = base.repeat(len(dims), len(values), 1)
    for row, d in enumerate(dims):
        z[row, :, d] = values[:, d]
    images = decode(vae, z.flatten(0, 1))
    return images.view(len(dims), len(values), *images.shape[1:])


def row_labels(dims: Sequence[int], kl_per_latent: Sequence[float] | None) -> tuple[str, ...]:
    """Name latents, with their KL in nats where it is known: ``z7 KL 1.3``."""
    return tuple(f"z{d}" if kl_per_latent is None else f"z{d} KL {kl_per_latent[d]:.1f}" for d in dims)
