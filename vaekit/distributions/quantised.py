"""Distributions over codes: latents with P positions, each holding a C-dimensional vector that R codes represent."""

from __future__ import annotations

import math
from functools import reduce
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from vaekit.distributions.density import full_precision
from vaekit.distributions.kl import register_kl


def to_positions(z: Tensor, channels: int) -> Tensor:
    """Return latents ``(..., C P)`` as vectors per position, ``(..., P, C)``."""
    vectors: Tensor = z.unflatten(-1, (channels, -1))
    return vectors.mT


def from_positions(vectors: Tensor) -> Tensor:
    """Return vectors per position ``(..., P, C)`` as latents ``(..., C P)``."""
    return vectors.mT.flatten(-2)


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Return the index of the codebook entry ``(K, C)`` nearest to each vector ``(..., C)``, in full precision."""
    with full_precision(vectors):
        return (codebook.square().sum(-1) - 2 * vectors @ codebook.T).argmin(-1)


class Vocabulary(Protocol):
    """The vectors that codes represent; posteriors in the space ``codes`` have one as the attribute ``vocabulary``."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of values of each of the R codes of a position."""
        ...

    @property
    def mean(self) -> Tensor:
        """The mean of all vectors, ``(C,)``."""
        ...

    def vectors(self, codes: Tensor) -> Tensor:
        """Return the vectors ``(..., C)`` that codes ``(..., R)`` represent."""
        ...

    def codes(self, vectors: Tensor) -> Tensor:
        """Return codes ``(..., R)`` whose vectors are close to the given ones ``(..., C)``."""
        ...


class Codebooks(NamedTuple):
    """R codebooks: a vector is the sum of one entry of each.

    Codes are found one by one: each is the entry nearest to the remaining residual. With a single codebook, this is the nearest
    entry; with several, even a sum of entries may be assigned different codes.

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
    """Each channel has its own levels ``code / half - 1``, where ``half`` is half the number of levels.

    Args:
        sizes: The number of levels of each channel.
        half: Half of that, rounded down, ``(C,)``.
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
    """A point mass at the codebook entries nearest to the encoder's outputs.

    Samples have the values of the entries and the gradients of the outputs (straight-through estimator).

    Args:
        outputs: The encoder's outputs, ``(B, C P)``.
        entries: The nearest entries, ``(B, C P)``.
        codes: Their indices, ``(B, P, R)``.
        usage: The frequency with which each entry is the nearest, ``(K,)`` or ``(R, K)``, with sum 1; None if unknown.
        partial: The partial sums of the entries of R codebooks, ``(R, B, C P)``; None for a single codebook.

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
        """The squared distance between outputs and entries, summed over the partial sums, ``(B,)``."""
        entries = self.entries[None] if self.partial is None else self.partial
        return (self.outputs - entries.detach()).square().sum(-1).sum(0)

    def rsample(self, noise: Tensor) -> Tensor:
        """Return the entries, expanded over the sample dimensions of ``noise`` ``(*S, B, C P)``."""
        return self.mean.expand(noise.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log probabilities, ``(*S, B)``: 0 for the nearest entries, else minus infinity."""
        same = (value == self.entries).all(-1)
        return torch.where(same, 0.0, -torch.inf).to(value.dtype)


class UniformCodes(NamedTuple):
    """A uniform distribution over the codes of a vocabulary at each of ``num`` positions P."""

    vocabulary: Vocabulary
    num: int

    @property
    def nats(self) -> float:
        """The negative log probability, the same for all codes."""
        return self.num * sum(map(math.log, self.vocabulary.sizes))

    @property
    def mean(self) -> Tensor:
        mean = self.vocabulary.mean
        return from_positions(mean.expand(self.num, -1))

    def rsample(self, noise: Tensor) -> Tensor:
        """Map uniform noise on [0, 1), ``(*S, B, P R)``, to latents ``(*S, B, C P)``."""
        sizes = self.vocabulary.sizes
        uniform = noise.unflatten(-1, (self.num, len(sizes))).unbind(-1)
        codes = [(each * size).long().clamp(max=size - 1) for each, size in zip(uniform, sizes, strict=True)]
        return from_positions(self.vocabulary.vectors(torch.stack(codes, -1)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability of the codes that latents represent, ``(*S, B)``."""
        return value.new_full(value.shape[:-1], -self.nats)


@register_kl(Quantised, UniformCodes)
def _quantised_uniform(q: Quantised, p: UniformCodes) -> Tensor:
    """Return the log of the number of codes per position, spread evenly over its channels."""
    return torch.full_like(q.entries, p.nats / q.entries.shape[-1])
