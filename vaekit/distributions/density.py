"""Protocols of distributions and densities."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


class Distribution(Protocol):
    """A batch of distributions over events: latent vectors ``(D,)`` or examples, such as images ``(C, H, W)``.

    Sample dimensions ``*S`` come before the batch dimension ``B``, event dimensions last. If the variance has a closed form, it
    is the property ``variance``, ``(B, *event)``, beside the mean.
    """

    @property
    def mean(self) -> Tensor:
        """The mean of each distribution, ``(B, *event)``."""
        ...

    def rsample(self, noise: Tensor) -> Tensor:
        """Map base noise ``(*S, B, *event)`` to samples of the same shape, differentiably."""
        ...


class Density(Distribution, Protocol):
    """A distribution with an exact density or probability mass."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log densities in nats, ``(*S, B)``, summed over event dimensions."""
        ...


class DensityOfDraws(Distribution, Protocol):
    """A distribution that returns its samples together with their densities, like normalising flows without a cheap inverse."""

    def rsample_and_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Map base noise ``(*S, B, *event)`` to samples, like ``rsample``, and to their log densities ``(*S, B)``."""
        ...


class FactorisedDensity(Density, Protocol):
    """A density with independent dimensions."""

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        """Return log densities per dimension, ``(*S, B, *event)``."""
        ...


@runtime_checkable
class AutoregressiveDensity(Density, Protocol):
    """A density that factorises into conditionals given the preceding dimensions."""

    def conditional_log_probs(self, value: Tensor) -> Tensor:
        """Return the log density of each dimension given the preceding ones, ``(*S, B, *event)``; they sum to ``log_prob``."""
        ...


def rsample_and_log_prob(distribution: Distribution, noise: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return samples and, if the distribution returns them together, their log densities, else None."""
    stated = getattr(distribution, "rsample_and_log_prob", None)
    drawn: tuple[Tensor, Tensor | None] = (distribution.rsample(noise), None) if stated is None else stated(noise)
    return drawn


def conditional_log_probs(density: object, value: Tensor) -> Tensor | None:
    """Return the log density of each dimension given the preceding ones; None if the density has no such terms."""
    if isinstance(density, AutoregressiveDensity):
        return density.conditional_log_probs(value)
    per_dim = getattr(density, "log_prob_per_dim", None)
    terms: Tensor | None = None if per_dim is None else per_dim(value)
    return terms


@runtime_checkable
class QuantisedDensity(Density, Protocol):
    """A density of continuous pixels that can be integrated over the grey levels of quantised images."""

    def log_mass(self, value: Tensor, width: float) -> Tensor:
        """Return the log probability of images in [0, 1] with grey levels ``width`` apart, ``(*S, B)``; they sum to 1."""
        ...


@runtime_checkable
class Curved(Distribution, Protocol):
    """A distribution on a subset of the vector space, such as a sphere, with its projection and geodesics.

    If the prior is one, pictures decode only valid codes.
    """

    def project(self, value: Tensor) -> Tensor:
        """Return the codes nearest to vectors ``(…, D)``."""
        ...

    def geodesic(self, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        """Return the shortest path from code ``a`` to ``b`` ``(D,)`` at times ``t`` ``(N,)`` from 0 to 1, ``(N, D)``."""
        ...


def sum_event(values: Tensor, ndim: int) -> Tensor:
    """Sum over the last ``ndim`` dimensions in at least float32, since bfloat16 cannot represent 10,000 nats."""
    dtype = torch.promote_types(values.dtype, torch.float32)
    return values.sum(tuple(range(-ndim, 0)), dtype=dtype)


def full_precision(like: Tensor) -> AbstractContextManager[None]:
    """Return a context that disables autocast on the device of a tensor."""
    return nullcontext() if like.is_meta else torch.autocast(like.device.type, enabled=False)


def at_least_float32(values: Tensor) -> Tensor:
    """Convert half-precision tensors to float32; return other tensors unchanged."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
