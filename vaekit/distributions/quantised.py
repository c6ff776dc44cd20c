"""Distributions over codes: latents of P positions, each of which holds a vector of C numbers that R code numbers stand for."""

from __future__ import annotations

import math
from functools import reduce
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from vaekit.distributions.density import full_precision
from vaekit.distributions.kl import register_kl


def to_positions(z: Tensor, channels: int) -> Tensor:
    """Return latents ``(..., C P)`` as vectors by position, ``(..., P, C)``."""
    vectors: Tensor = z.unflatten(-1, (channels, -1))
    return vectors.mT


def from_positions(vectors: Tensor) -> Tensor:
    """Return vectors by position ``(..., P, C)`` as latents ``(..., C P)``."""
    return vectors.mT.flatten(-2)


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Return the number of the entry ``(K, C)`` that is nearest to each vector ``(..., C)``, in full precision."""
    with full_precision(vectors):
        return (codebook.square().sum(-1) - 2 * vectors @ codebook.T).argmin(-1)


class Vocabulary(Protocol):
    """The vectors that codes stand for; posteriors whose space is ``codes`` have one, under the name ``vocabulary``."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many values each of the R code numbers of a position has."""
        ...

    @property
    def mean(self) -> Tensor:
        """The mean of all vectors, ``(C,)``."""
        ...

    def vectors(self, codes: Tensor) -> Tensor:
        """Return the vectors ``(..., C)`` that codes ``(..., R)`` stand for."""
        ...

    def codes(self, vectors: Tensor) -> Tensor:
        """Return codes ``(..., R)`` whose vectors are near to given ones ``(..., C)``."""
        ...


class Codebooks(NamedTuple):
    """R codebooks: a vector is the sum of an entry of each.

    The codes of a vector are found one by one: each is the entry nearest to what those before it have left. With a single
    codebook, they are the nearest; with several, even a vector that is such a sum may be given other codes than it is made of.

    Args:
        books: The entries, ``(R, K, C)``.
    """

    books: Tensor

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.books.shape[1],) * self.books.shape[0]

    @property
    def mean(self) -> Tensor:
        return self.books.mean(1).sum(0)

    def vectors(self, codes: Tensor) -> Tensor:
        sums: Tensor = reduce(torch.add, (book[own] for book, own in zip(self.books, codes.unbind(-1), strict=True)))
        return sums

    def codes(self, vectors: Tensor) -> Tensor:
        found = []
        for book in self.books:
            found.append(nearest(vectors, book))
            vectors = vectors - book[found[-1]]
        return torch.stack(found, -1)


class Levels(NamedTuple):
    """Each channel has levels of its own, one of which is its code: ``code / half - 1``, ``half`` being half their number.

    Args:
        sizes: The number of levels of each channel.
        half: Half of it, rounded down, ``(C,)``.
        top: The last level, ``(C,)``.
    """

    sizes: tuple[int, ...]
    half: Tensor
    top: Tensor

    @property
    def mean(self) -> Tensor:
        return self.top / (2 * self.half) - 1

    def vectors(self, codes: Tensor) -> Tensor:
        return codes / self.half - 1

    def codes(self, vectors: Tensor) -> Tensor:
        return torch.minimum(((vectors + 1) * self.half).round().clamp(min=0), self.top).long()


class Quantised(NamedTuple):
    """All mass at the entries of a codebook that are nearest to the encoder's outputs.

    Samples have the values of the entries, and the gradient of the outputs: the straight-through estimator.

    Args:
        outputs: The encoder's outputs, ``(B, C P)``.
        entries: The nearest entries, ``(B, C P)``.
        codes: Their numbers, ``(B, P, R)``.
        usage: How often each entry of a codebook was the nearest, ``(K,)`` or ``(R, K)``, with sum 1; None if it is not known.
        partial: For sums of entries of R codebooks, the sums of the first 1 to R, ``(R, B, C P)``; None for one codebook.

    References:
        van den Oord et al. (2017), "Neural Discrete Representation Learning", NeurIPS, arXiv:1711.00937, section 3.1.
    """

    outputs: Tensor
    entries: Tensor
    codes: Tensor
    usage: Tensor | None = None
    partial: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        return self.entries.detach() + (self.outputs - self.outputs.detach())

    @property
    def distance(self) -> Tensor:
        """The squared distance of the outputs from the entries, and from each sum of the first of them, in all, ``(B,)``."""
        entries = self.entries[None] if self.partial is None else self.partial
        return (self.outputs - entries.detach()).square().sum(-1).sum(0)

    def rsample(self, noise: Tensor) -> Tensor:
        """Return the entries, expanded over the sample dimensions of ``noise`` ``(*S, B, C P)``."""
        return self.mean.expand(noise.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability of entries: 0 for the nearest ones, else minus infinity, ``(*S, B)``."""
        same = (value == self.entries).all(-1)
        return torch.where(same, 0.0, -torch.inf).to(value.dtype)


class UniformCodes(NamedTuple):
    """All codes of a vocabulary are equally probable at each of ``num`` positions P."""

    vocabulary: Vocabulary
    num: int

    @property
    def nats(self) -> float:
        """The negative log probability of any codes."""
        return self.num * sum(map(math.log, self.vocabulary.sizes))

    @property
    def mean(self) -> Tensor:
        mean = self.vocabulary.mean
        return from_positions(mean.expand(self.num, -1))

    def rsample(self, noise: Tensor) -> Tensor:
        """Map noise ``(*S, B, P R)``, uniform on [0, 1), to latents ``(*S, B, C P)``."""
        sizes = self.vocabulary.sizes
        uniform = noise.unflatten(-1, (self.num, len(sizes))).unbind(-1)
        codes = [(each * size).long().clamp(max=size - 1) for each, size in zip(uniform, sizes, strict=True)]
        return from_positions(self.vocabulary.vectors(torch.stack(codes, -1)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability of the latents of any codes, ``(*S, B)``."""
        return value.new_full(value.shape[:-1], -self.nats)


@register_kl(Quantised, UniformCodes)
def _quantised_uniform(q: Quantised, p: UniformCodes) -> Tensor:
    """Return the log number of codes of each position, spread evenly over its channels."""
    return torch.full_like(q.entries, p.nats / q.entries.shape[-1])
