"""What posteriors with discrete codes share, and how codebooks are learned.

Codebooks start at clusters of the encoder's outputs, then follow moving averages of these.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from vaekit.distributions import Vocabulary, from_positions, nearest, to_positions
from vaekit.errors import UsageError
from vaekit.interfaces import Posterior, Shape
from vaekit.trace import Trace

MOST_OUTPUTS, ROUNDS = 16_384, 10
"""The most encoder outputs that the initial codebook is fitted to, and the rounds of k-means."""


class CodesPosterior(Posterior):
    """A posterior whose latents are vectors of a vocabulary at each position, without noise.

    Args:
        latent_dim: The number of latents.
        latent_shape: Their shape, which starts with the number of channels.
    """

    space = "codes"
    default_prior = "uniform"

    def __init__(self, latent_dim: int, latent_shape: Shape) -> None:
        super().__init__(latent_dim)
        self.channels = latent_shape[0]

    @property
    @abstractmethod
    def vocabulary(self) -> Vocabulary:
        """The vectors that codes stand for, which the prior shares."""

    def check_size(self, num_codes: int, trace: Trace) -> None:
        """Raise an error if a codebook has more entries than the training images have positions.

        Raises:
            UsageError: It has, so some entries could never be used.
        """
        positions = self.latent_dim // self.channels
        if trace.num_data is not None and num_codes > trace.num_data * positions:
            raise UsageError(
                "the codebook is larger than the data",
                given=f"{num_codes:,} entries; {trace.num_data:,} training images with {positions:,} positions each",
                expected=f"at most {trace.num_data * positions:,} entries, and better a tenth of that",
                remedy="lower --num-codes, or give each image more positions by a smaller --latent-stride",
            )

    @property
    def param_shape(self) -> Shape:
        return (self.latent_dim,)

    @property
    def code_sizes(self) -> Shape:
        return self.vocabulary.sizes

    def nearest(self, z: Tensor) -> Tensor:
        vocabulary = self.vocabulary
        return from_positions(vocabulary.vectors(vocabulary.codes(to_positions(z, self.channels))))

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor) -> Tensor:
        """Return zeros ``(num, D)``, since quantisation needs no noise."""
        return like.new_zeros(num, self.latent_dim)


class Learned(NamedTuple):
    """A codebook and the moving averages it follows.

    Args:
        codebook: Its entries, ``(K, C)``.
        usage: The fraction of vectors that each entry is nearest to, ``(K,)``.
        sums: The sums of those vectors, divided by the number of all vectors, ``(K, C)``.
    """

    codebook: Tensor
    usage: Tensor
    sums: Tensor


def followed(state: Learned, vectors: Tensor, codes: Tensor, *, decay: float, restart: float) -> Learned:
    """Return a codebook after a step with vectors ``(M, C)`` and their codes ``(M,)``; entries that are hardly used move."""
    usage, sums = clusters(vectors, codes, len(state.codebook))
    usage = decay * state.usage + (1 - decay) * usage
    sums = decay * state.sums + (1 - decay) * sums
    num = len(state.codebook)
    rare = usage < restart / num
    place = rare.cumsum(0) - 1  # each moves to an output of its own, as equal entries would compete by rounding errors
    rare &= place < len(vectors)
    usage = torch.where(rare, 1 / num, usage)
    moved = vectors[place.clamp(min=0) * max(1, len(vectors) // num) % len(vectors)]
    sums = torch.where(rare[:, None], moved / num, sums)
    return Learned(sums / usage[:, None], usage, sums)


def fitted(noise: Tensor, vectors: Tensor) -> Learned:
    """Return a codebook fitted to vectors ``(M, C)`` by k-means.

    Args:
        noise: Standard normal noise ``(K, C)``: entries left without vectors start at their moments.
        vectors: The vectors.
    """
    num = len(noise)
    codebook = vectors.mean(0) + vectors.std(0) * noise
    some = vectors[:: max(1, len(vectors) // num)][:num]
    codebook[: len(some)] = some
    for _ in range(ROUNDS):
        usage, sums = clusters(vectors, nearest(vectors, codebook), num)
        codebook = torch.where(usage[:, None] > 0, sums / usage[:, None].clamp(min=1e-12), codebook)
    usage = usage.clamp(min=1 / len(vectors))
    return Learned(codebook, usage, codebook * usage[:, None])


def few(vectors: Tensor) -> Tensor:
    """Return at most about `MOST_OUTPUTS` of vectors ``(M, C)``."""
    return vectors[:: max(1, len(vectors) // MOST_OUTPUTS)]


def clusters(vectors: Tensor, codes: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Return the fraction of vectors ``(M, C)`` that have each of ``num`` codes, and their sums, divided by M."""
    usage, sums = vectors.new_zeros(num), vectors.new_zeros(num, vectors.shape[1])
    part = vectors.new_full(codes.shape, 1 / len(vectors))
    return usage.index_add(0, codes, part), sums.index_add(0, codes, vectors / len(vectors))
