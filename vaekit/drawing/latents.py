"""Codes of images, their spread and principal axes, and paths from one code to another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaekit.distributions import Curved, StandardNormal
from vaekit.drawing.examples import Examples
from vaekit.drawing.options import Way
from vaekit.errors import UsageError
from vaekit.model.vae import VAE
from vaekit.streams import Streams

MOST_COLUMNS = 20
"""Maximum number of classes that get a column each in a grid of samples."""
CHUNK = 256
"""Number of images to encode or decode at a time."""


class Spread(NamedTuple):
    """Mean and standard deviation of each latent, ``(D,)``."""

    mean: Tensor
    std: Tensor


class Plane(NamedTuple):
    """Axes through the latent space, ``center + u @ axes`` with ``axes`` ``(k, D)``, and their names."""

    center: Tensor
    axes: Tensor
    names: tuple[str, ...]

    def coordinates(self, codes: Tensor) -> Tensor:
        """Return the coordinates ``(…, k)`` of codes ``(…, D)`` along the (orthogonal) axes."""
        return (codes - self.center) @ (self.axes / self.axes.square().sum(-1, keepdim=True)).T


@torch.no_grad()
def encode_means(vae: VAE, examples: Examples) -> Tensor:
    """Return the posterior means of images, ``(N, D)``."""
    return torch.cat([vae.encode(chunk.images, chunk.labels).mean for chunk in examples.split(CHUNK)])


@torch.no_grad()
def encode_samples(vae: VAE, examples: Examples, num: int, generator: torch.Generator) -> Tensor:
    """Return ``num`` posterior samples for each image, ``(num, N, D)``."""
    draws = []
    for chunk in examples.split(CHUNK):
        size = len(chunk.images)
        noise = vae.posterior.draw_noise(num * size, generator, like=chunk.images).unflatten(0, (num, size))
        draws.append(vae.encode(chunk.images, chunk.labels).rsample(noise))
    return torch.cat(draws, 1)


@torch.no_grad()
def decode_nearest(vae: VAE, z: Tensor, c: Tensor | None = None) -> Tensor:
    """Return the decoded mean images of the codes nearest to vectors ``(N, D)``; see `nearest_codes`."""
    return decode(vae, nearest_codes(vae, z), c)


@torch.no_grad()
def decode(vae: VAE, z: Tensor, c: Tensor | None = None) -> Tensor:
    """Return the decoded mean images of codes ``(N, D)``, in [0, 1] for display.

    Args:
        vae: The model.
        z: The codes.
        c: The condition of each code, from `VAE.condition_on`: ``(N, E)``, or ``(1, E)`` for all codes.
    """
    conditions = [None] * len(z.split(CHUNK)) if c is None else c.expand(len(z), -1).split(CHUNK)
    images = [vae.likelihood_of(*both).mean for both in zip(z.split(CHUNK), conditions, strict=True)]
    return vae.to_unit(torch.cat(images))


def prior_of(vae: VAE) -> Any:
    """Return p(z), or p(z|c) for the first class if it depends on the class."""
    return vae.prior(vae, vae.condition_on(vae.classes_in_turn(1)))


@torch.no_grad()
def nearest_codes(vae: VAE, z: Tensor) -> Tensor:
    """Return the codes nearest to vectors ``(N, D)``; see `VAE.nearest`."""
    return vae.nearest(z)


@torch.no_grad()
def path(vae: VAE, way: Way, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Return the path from code ``a`` to ``b`` ``(D,)`` at ``t`` ``(N,)``, ``(N, D)``; a straight path is the geodesic."""
    prior = prior_of(vae)
    return prior.geodesic(a, b, t) if way == "linear" and isinstance(prior, Curved) else WAYS[way](a, b, t)


@torch.no_grad()
def prior_spread(vae: VAE) -> Spread:
    """Return the spread of the prior: exact for a standard normal, otherwise estimated from 4,096 fixed samples."""
    prior = prior_of(vae)
    if isinstance(prior, StandardNormal):
        return Spread(torch.zeros_like(prior.zero), torch.ones_like(prior.zero))
    generator = Streams(0).generator("prior spread", 0, vae.device)
    draws = vae.sample_latent(4096, generator=generator)
    return Spread(draws.mean(0), draws.std(0))


def num_columns(vae: VAE) -> int | None:
    """Return the number of columns in a grid of samples: one per class for conditional models; None otherwise."""
    return vae.condition.num_classes if 0 < vae.condition.num_classes <= MOST_COLUMNS else None


def code_spread(codes: Tensor) -> Spread:
    """Return the spread of codes ``(N, D)``."""
    return Spread(codes.mean(0), codes.std(0, correction=0))


def principal_plane(codes: Tensor, num: int = 2) -> Plane:
    """Return the ``num`` principal axes of codes ``(N, D)``, scaled by the standard deviation along each."""
    center = codes.mean(0)
    _, singular, directions = torch.linalg.svd(codes - center, full_matrices=False)
    num = min(num, len(directions))
    signs = directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()  # the SVD does not determine the sign
    lengths = (singular / max(1, len(codes) - 1) ** 0.5).clamp(min=1e-6)
    names = tuple(f"principal axis {i + 1} (sd)" for i in range(num))
    return Plane(center, (signs * directions * lengths[:, None])[:num], names)


def order_by_information(kl_per_latent: Sequence[float] | None, codes: Tensor) -> list[int]:
    """Return the latents, most informative first: by KL or, without a KL, by the variance of the codes."""
    values = codes.var(0, correction=0) if kl_per_latent is None else torch.tensor(kl_per_latent)
    return [int(i) for i in values.argsort(descending=True, stable=True)]


def latent_plane(spread: Spread, dims: Sequence[int]) -> Plane:
    """Return the axes of the chosen latents, with the others at their means."""
    axes = torch.eye(len(spread.mean), device=spread.mean.device)[list(dims)]
    center = spread.mean.clone()
    center[list(dims)] = 0.0
    return Plane(center, axes, tuple(f"z{d}" for d in dims))


def check_dims(dims: Sequence[int], latent_dim: int) -> None:
    """Check that latents exist and are distinct.

    Raises:
        UsageError: A latent does not exist or is repeated.
    """
    if len(set(dims)) != len(dims) or any(not 0 <= d < latent_dim for d in dims):
        raise UsageError(
            "invalid latents",
            given=", ".join(map(str, dims)),
            expected=f"distinct indices from 0 to {latent_dim - 1}",
        )


def linear(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Return the straight line from ``a`` to ``b`` ``(D,)`` at ``t`` ``(N,)``."""
    return a + t[:, None] * (b - a)


def spherical(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Return the great circle from ``a`` to ``b`` ``(D,)`` at ``t`` ``(N,)``, which stays as far from 0 as typical codes.

    If both codes lie on a line through 0, the great circle is undefined, and the path is straight.

    References:
        White (2016), "Sampling Generative Networks", arXiv:1609.04468, section 2.1.
    """
    length = a.norm() * b.norm()
    angle = torch.arccos((a @ b / length.clamp(min=1e-12)).clamp(-1, 1))
    if length < 1e-12 or torch.sin(angle) < 1e-4:
        return linear(a, b, t)
    weights = torch.sin(torch.stack([1 - t, t], 1) * angle) / torch.sin(angle)
    return weights @ torch.stack([a, b])


WAYS: dict[Way, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"linear": linear, "spherical": spherical}
