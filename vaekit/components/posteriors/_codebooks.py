"""Base class of posteriors with discrete codes, and codebook learning.

Codebooks are initialised by clustering the encoder's outputs and then follow moving averages of them.
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

MAX_OUTPUTS, KMEANS_ITERATIONS = 16_384, 10
"""Maximum number of encoder outputs that the initial codebook is fitted to, and number of k-means iterations."""


class CodesPosterior(Posterior):
    """A noise-free posterior whose latents are vectors from a vocabulary, one per position.

    Args:
        latent_dim: The number of latents.
        latent_shape: The shape of the latents, channels first.
    """

    space = "codes"
    default_prior = "uniform"

    def __init__(self, latent_dim: int, latent_shape: Shape) -> None:
        super().__init__(latent_dim)
        self.channels = latent_shape[0]

    @property
    @abstractmethod
    def vocabulary(self) -> Vocabulary:
        """The vectors that codes represent, shared with the prior."""

    def check_size(self, num_codes: int, trace: Trace) -> None:
        """Check that a codebook does not have more entries than the training images have positions.

        Raises:
            UsageError: It has more, so some entries could never be used.
        """
        positions = self.latent_dim // self.channels
        if trace.num_data is not None and num_codes > trace.num_data * positions:
            raise UsageError(
                "the codebook is larger than the data",
                given=f"{num_codes:,} entries; {trace.num_data:,} training images with {positions:,} positions each",
                expected=f"at most {trace.num_data * positions:,} entries, ideally a tenth of that",
                remedy="reduce --num-codes, or use a smaller --latent-stride for more positions per image",
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
        """Return zeros ``(num, D)``: quantisation needs no noise."""
        return like.new_zeros(num, self.latent_dim)


class CodebookState(NamedTuple):
    """A codebook and its moving averages.

    Args:
        codebook: The entries, ``(K, C)``.
        usage: The fraction of vectors assigned to each entry, ``(K,)``.
        sums: The sums of the assigned vectors divided by the total number of vectors, ``(K, C)``.
    """

    codebook: Tensor
    usage: Tensor
    sums: Tensor


def update_codebook(state: CodebookState, vectors: Tensor, codes: Tensor, *, decay: float, restart: float) -> CodebookState:
    """Return the codebook after a step with vectors ``(M, C)`` and their codes ``(M,)``; rarely used entries are reset."""
    usage, sums = cluster_sums(vectors, codes, len(state.codebook))
    usage = decay * state.usage + (1 - decay) * usage
    sums = decay * state.sums + (1 - decay) * sums
    num = len(state.codebook)
    rare = usage < restart / num
    place = rare.cumsum(0) - 1  # each to a different output: which of two equal entries is nearest would depend on rounding
    rare &= place < len(vectors)
    usage = torch.where(rare, 1 / num, usage)
    moved = vectors[place.clamp(min=0) * max(1, len(vectors) // num) % len(vectors)]
    sums = torch.where(rare[:, None], moved / num, sums)
    return CodebookState(sums / usage[:, None], usage, sums)


def fit_codebook(noise: Tensor, vectors: Tensor) -> CodebookState:
    """Fit a codebook to vectors ``(M, C)`` by k-means.

    Args:
        noise: Standard normal noise ``(K, C)``, from which empty clusters are initialised, scaled to the vectors' moments.
        vectors: The vectors.
    """
    num = len(noise)
    codebook = vectors.mean(0) + vectors.std(0) * noise
    some = vectors[:: max(1, len(vectors) // num)][:num]
    codebook[: len(some)] = some
    for _ in range(KMEANS_ITERATIONS):
        usage, sums = cluster_sums(vectors, nearest(vectors, codebook), num)
        codebook = torch.where(usage[:, None] > 0, sums / usage[:, None].clamp(min=1e-12), codebook)
    usage = usage.clamp(min=1 / len(vectors))
    return CodebookState(codebook, usage, codebook * usage[:, None])


def subsample(vectors: Tensor) -> Tensor:
    """Return about `MAX_OUTPUTS` of the vectors ``(M, C)`` at most."""
    return vectors[:: max(1, len(vectors) // MAX_OUTPUTS)]


def cluster_sums(vectors: Tensor, codes: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Return, for each of ``num`` codes, the fraction of vectors ``(M, C)`` with that code, and their sum divided by M."""
    usage, sums = vectors.new_zeros(num), vectors.new_zeros(num, vectors.shape[1])
    part = vectors.new_full(codes.shape, 1 / len(vectors))
    return usage.index_add(0, codes, part), sums.index_add(0, codes, vectors / len(vectors))
