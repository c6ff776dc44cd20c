"""The posterior of a VQ-VAE."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from vaekit.distributions import Quantised, at_least_float32, from_positions, full_precision, to_positions
from vaekit.interfaces import Capability, Posterior, Shape
from vaekit.roles import posteriors
from vaekit.schema import Count
from vaekit.trace import Trace

MOST_OUTPUTS, ROUNDS = 16_384, 10
"""The most encoder outputs that the initial codebook is fitted to, and the rounds of k-means."""


@posteriors("vq")
class VQ(Posterior):
    """The nearest entry of a learned codebook at each position: the posterior of a VQ-VAE, for grids (``--latent-stride 4``).

    The encoder receives the gradient of the entries unchanged. The codebook starts at a k-means clustering of encoder outputs and
    then follows moving averages of the outputs that each entry is nearest to; an entry that is hardly used moves to an output.

    Args:
        num_codes: Number of entries of the codebook.
        decay: Decay of the moving averages.
        restart: Usage below which an entry moves, as a fraction of the mean usage; 0 for never.

    References:
        van den Oord et al. (2017), "Neural Discrete Representation Learning", NeurIPS, arXiv:1711.00937, sections 3 and A.
        Dhariwal et al. (2020), "Jukebox: A Generative Model for Music", arXiv:2005.00341, section 3.2 (restarts).
    """

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB, Capability.CODES})
    space = "codes"
    default_prior = "uniform"
    default_loss = "commitment"
    learned = ("codebook", "usage", "sums")
    codebook: Tensor
    usage: Tensor
    sums: Tensor

    def __init__(
        self,
        latent_dim: int,
        latent_shape: Shape,
        *,
        num_codes: Annotated[Count, Field(ge=2)] = 512,
        decay: Annotated[float, Field(ge=0, lt=1)] = 0.99,
        restart: NonNegativeFloat = 0.1,
    ) -> None:
        super().__init__(latent_dim)
        self.channels, self.decay, self.restart = latent_shape[0], decay, restart
        self.register_buffer("codebook", torch.randn(num_codes, self.channels))
        self.register_buffer("usage", torch.full((num_codes,), 1 / num_codes))
        self.register_buffer("sums", self.codebook / num_codes)

    @property
    def param_shape(self) -> Shape:
        return (self.latent_dim,)

    def forward(self, params: Tensor, model: Any = None) -> Quantised:
        del model
        outputs = at_least_float32(params)
        codes = nearest(to_positions(outputs, self.channels), self.codebook)
        return Quantised(outputs, from_positions(self.codebook[codes]), codes, self.usage / self.usage.sum())

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor) -> Tensor:
        """Return zeros ``(num, D)``, since the nearest entry needs no noise."""
        return like.new_zeros(num, self.latent_dim)

    def next_state(self, trace: Trace) -> dict[str, Tensor]:
        q = cast("Quantised", trace.site.q)
        outputs = to_positions(q.outputs, self.channels).flatten(0, -2)
        usage, sums = clusters(outputs, q.codes.flatten(), len(self.codebook))
        usage = self.decay * self.usage + (1 - self.decay) * usage
        sums = self.decay * self.sums + (1 - self.decay) * sums
        num = len(self.codebook)
        rare = usage < self.restart / num
        place = rare.cumsum(0) - 1  # each moves to an output of its own, as equal entries would compete by rounding errors
        rare &= place < len(outputs)
        usage = torch.where(rare, 1 / num, usage)
        moved = outputs[place.clamp(min=0) * max(1, len(outputs) // num) % len(outputs)]
        sums = torch.where(rare[:, None], moved / num, sums)
        return {"codebook": sums / usage[:, None], "usage": usage, "sums": sums}

    def initial_state(self, trace: Trace) -> dict[str, Tensor]:
        q, num = cast("Quantised", trace.site.q), len(self.codebook)
        outputs = to_positions(q.outputs, self.channels).flatten(0, -2)
        outputs = outputs[:: max(1, len(outputs) // MOST_OUTPUTS)]
        codebook = outputs.mean(0) + outputs.std(0) * self.codebook
        some = outputs[:: max(1, len(outputs) // num)][:num]
        codebook[: len(some)] = some
        for _ in range(ROUNDS):
            usage, sums = clusters(outputs, nearest(outputs, codebook), num)
            codebook = torch.where(usage[:, None] > 0, sums / usage[:, None].clamp(min=1e-12), codebook)
        usage = usage.clamp(min=1 / len(outputs))
        return {"codebook": codebook, "usage": usage, "sums": codebook * usage[:, None]}


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Return the number of the entry ``(K, C)`` that is nearest to each vector ``(..., C)``, in full precision."""
    with full_precision(vectors):
        return (codebook.square().sum(-1) - 2 * vectors @ codebook.T).argmin(-1)


def clusters(vectors: Tensor, codes: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Return the fraction of vectors ``(M, C)`` that have each of ``num`` codes, and their sums, divided by M."""
    usage, sums = vectors.new_zeros(num), vectors.new_zeros(num, vectors.shape[1])
    part = vectors.new_full(codes.shape, 1 / len(vectors))
    return usage.index_add(0, codes, part), sums.index_add(0, codes, vectors / len(vectors))
