"""The posterior of a VQ-VAE."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from vaekit.components.posteriors._codebooks import CodebookState, CodesPosterior, fit_codebook, subsample, update_codebook
from vaekit.distributions import Codebooks, Quantised, at_least_float32, from_positions, to_positions
from vaekit.interfaces import Capability, Shape
from vaekit.roles import posteriors
from vaekit.schema import Count
from vaekit.trace import Trace


@posteriors("vq")
class VQ(CodesPosterior):
    """The nearest entry of a learned codebook at each position: the posterior of a VQ-VAE, for grids (``--latent-stride 4``).

    Gradients pass straight through to the encoder. The codebook is initialised by k-means clustering of encoder outputs; each
    entry then follows a moving average of the outputs assigned to it, and a rarely used entry is reset to an encoder output.

    Args:
        num_codes: Number of codebook entries.
        decay: Decay of the moving averages.
        restart: Usage below which an entry is reset, as a fraction of the mean usage; 0 to disable.

    References:
        van den Oord et al. (2017), "Neural Discrete Representation Learning", NeurIPS, arXiv:1711.00937,
            section 3 and appendix A.1.
        Dhariwal et al. (2020), "Jukebox: A Generative Model for Music", arXiv:2005.00341, section 3.1 (restarts).
    """

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB, Capability.CODES, Capability.READABLE})
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
        super().__init__(latent_dim, latent_shape)
        self.decay, self.restart = decay, restart
        self.register_buffer("codebook", torch.randn(num_codes, self.channels))
        self.register_buffer("usage", torch.full((num_codes,), 1 / num_codes))
        self.register_buffer("sums", self.codebook / num_codes)

    @property
    def vocabulary(self) -> Codebooks:
        """The codebook, shared with the prior."""
        return Codebooks(self.codebook[None])

    def forward(self, params: Tensor, model: Any = None) -> Quantised:
        del model
        outputs, vocabulary = at_least_float32(params), self.vocabulary
        codes = vocabulary.codes(to_positions(outputs, self.channels))
        return Quantised(outputs, from_positions(vocabulary.vectors(codes)), codes, self.usage / self.usage.sum())

    def next_state(self, trace: Trace) -> dict[str, Tensor]:
        q = cast("Quantised", trace.site.q)
        outputs = to_positions(q.outputs, self.channels).flatten(0, -2)
        state = CodebookState(self.codebook, self.usage, self.sums)
        return update_codebook(state, outputs, q.codes.flatten(), decay=self.decay, restart=self.restart)._asdict()

    def initial_state(self, trace: Trace) -> dict[str, Tensor]:
        self.check_size(len(self.codebook), trace)
        q = cast("Quantised", trace.site.q)
        return fit_codebook(self.codebook, subsample(to_positions(q.outputs, self.channels).flatten(0, -2)))._asdict()
