"""Finite scalar quantisation."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from vaekit.components.posteriors._codebooks import CodesPosterior
from vaekit.distributions import Levels, Quantised, at_least_float32, from_positions, to_positions
from vaekit.errors import UsageError
from vaekit.interfaces import Capability, Shape
from vaekit.roles import posteriors

MARGIN = 1e-3
"""Relative margin by which bounded outputs exceed the outermost levels, so that rounding reaches them."""


@posteriors("fsq")
class FSQ(CodesPosterior):
    """Finite scalar quantisation: latents bounded by tanh and rounded to a few levels, without a codebook.

    The number of codes per position is the product of the levels, such as 8·5·5·5 = 1000, so a few channels suffice:
    ``--latent-dim 4 --latent-stride 4 --levels 8,5,5,5``. Gradients pass straight through the rounding. No commitment loss is
    needed; the KL to the uniform prior is P times the log of the number of codes.

    Args:
        levels: Number of levels per channel, or one number for all; the paper recommends 5 or more.

    References:
        Mentzer et al. (2024), "Finite Scalar Quantization: VQ-VAE Made Simple", ICLR, arXiv:2309.15505, section 3.
    """

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB, Capability.READABLE})
    below: Tensor
    top: Tensor

    def __init__(
        self,
        latent_dim: int,
        latent_shape: Shape,
        *,
        levels: Annotated[tuple[Annotated[int, Field(ge=3, le=256)], ...], Field(min_length=1)] = (5,),
    ) -> None:
        super().__init__(latent_dim, latent_shape)
        if len(levels) not in (1, self.channels):
            raise UsageError(
                "the posterior 'fsq' needs the number of levels of each channel",
                given=f"levels {', '.join(map(str, levels))} for {self.channels} channels",
                expected=f"{self.channels} numbers, or one for all",
                remedy=f"use --latent-dim {len(levels)}",
            )
        self.sizes = tuple(levels) * (self.channels // len(levels))
        self.register_buffer("below", torch.tensor([float(size // 2) for size in self.sizes]), persistent=False)
        self.register_buffer("top", torch.tensor([size - 1.0 for size in self.sizes]), persistent=False)

    @property
    def vocabulary(self) -> Levels:
        """The levels, shared with the prior."""
        return Levels(self.sizes, self.below, self.top)

    def forward(self, params: Tensor, model: Any = None) -> Quantised:
        del model
        vectors, vocabulary = to_positions(at_least_float32(params), self.channels), self.vocabulary
        reach = self.top * (1 + MARGIN) / 2
        offset = self.below - self.top / 2  # 1/2 for an even number, with more levels below 0 than above
        bounded = (reach * torch.tanh(vectors + torch.atanh(offset / reach)) - offset) / self.below  # 0 stays 0
        codes = vocabulary.codes(bounded)
        return Quantised(from_positions(bounded), from_positions(vocabulary.vectors(codes)), codes)
