"""Distributions over the entries of a codebook: latents of P positions, each of which holds one of K vectors of C numbers."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vaekit.distributions.kl import register_kl


def to_positions(z: Tensor, channels: int) -> Tensor:
    """Return latents ``(..., C P)`` as vectors by position, ``(..., P, C)``."""
    vectors: Tensor = z.unflatten(-1, (channels, -1))
    return vectors.mT


def from_positions(vectors: Tensor) -> Tensor:
    """Return vectors by position ``(..., P, C)`` as latents ``(..., C P)``."""
    return vectors.mT.flatten(-2)


class Quantised(NamedTuple):
    """All mass at the entries of a codebook that are nearest to the encoder's outputs.

    Samples have the values of the entries, and the gradient of the outputs: the straight-through estimator.

    Args:
        outputs: The encoder's outputs, ``(B, C P)``.
        entries: The nearest entries, ``(B, C P)``.
        codes: Their numbers, ``(B, P)``.
        usage: How often each entry of the codebook was the nearest, ``(K,)``, with sum 1.

    References:
        van den Oord et al. (2017), "Neural Discrete Representation Learning", NeurIPS, arXiv:1711.00937, section 3.1.
    """

    outputs: Tensor
    entries: Tensor
    codes: Tensor
    usage: Tensor

    @property
    def mean(self) -> Tensor:
        return self.entries.detach() + (self.outputs - self.outputs.detach())

    def rsample(self, noise: Tensor) -> Tensor:
        """Return the entries, expanded over the sample dimensions of ``noise`` ``(*S, B, C P)``."""
        return self.mean.expand(noise.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability of entries: 0 for the nearest ones, else minus infinity, ``(*S, B)``."""
        same = (value == self.entries).all(-1)
        return torch.where(same, 0.0, -torch.inf).to(value.dtype)


class UniformCodes(NamedTuple):
    """Every entry of a codebook ``(K, C)`` is equally probable at each of ``num`` positions P."""

    codebook: Tensor
    num: int

    @property
    def mean(self) -> Tensor:
        return from_positions(self.codebook.mean(0).expand(self.num, -1))

    def rsample(self, noise: Tensor) -> Tensor:
        """Map noise ``(*S, B, P)``, uniform on [0, 1), to entries ``(*S, B, C P)``."""
        size = len(self.codebook)
        return from_positions(self.codebook[(noise * size).long().clamp(max=size - 1)])

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability of entries, ``(*S, B)``."""
        return value.new_full(value.shape[:-1], -self.num * math.log(len(self.codebook)))


@register_kl(Quantised, UniformCodes)
def _quantised_uniform(q: Quantised, p: UniformCodes) -> Tensor:
    """Return ``log K`` for each position, spread evenly over its channels."""
    return torch.full_like(q.entries, math.log(len(p.codebook)) / p.codebook.shape[1])
