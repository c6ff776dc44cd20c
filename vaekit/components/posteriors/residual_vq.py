"""Residual vector quantisation."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from vaekit.components.posteriors._codebooks import CodebookState, CodesPosterior, fit_codebook, subsample, update_codebook
from vaekit.distributions import Codebooks, Quantised, at_least_float32, from_positions, to_positions
from vaekit.interfaces import Capability, Shape
from vaekit.roles import posteriors
from vaekit.schema import Count, Few
from vaekit.trace import Trace


@posteriors("residual_vq")
class ResidualVQ(CodesPosterior):
    """Residual vector quantisation: per position, the sum of an entry from each of R codebooks, ``K^R`` vectors in all.

    From coarse to fine, each stage quantises the residual of the previous stages, with a codebook learned as in `vq`. Gradients
    pass straight through to the encoder. The loss ``commitment`` keeps the outputs close to the partial sums of the entries.
    The KL to the uniform prior is ``P R log K``.

    Args:
        num_stages: Number of stages R.
        num_codes: Number of entries per codebook.
        decay: Decay of the moving averages.
        restart: Usage below which an entry is reset, as a fraction of the mean usage; 0 to disable.

    References:
        Zeghidour et al. (2022), "SoundStream: An End-to-End Neural Audio Codec", TASLP, arXiv:2107.03312, section III.C.
        Lee et al. (2022), "Autoregressive Image Generation using Residual Quantization", CVPR, arXiv:2203.01941, section 3.1.
    """

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB, Capability.CODES})
    default_loss = "commitment"
    learned = ("codebooks", "usage", "sums")
    codebooks: Tensor
    usage: Tensor
    sums: Tensor

    def __init__(
        self,
        latent_dim: int,
        latent_shape: Shape,
        *,
        num_stages: Few = 4,
        num_codes: Annotated[Count, Field(ge=2)] = 256,
        decay: Annotated[float, Field(ge=0, lt=1)] = 0.99,
        restart: NonNegativeFloat = 0.1,
    ) -> None:
        super().__init__(latent_dim, latent_shape)
        self.decay, self.restart = decay, restart
        self.register_buffer("codebooks", torch.randn(num_stages, num_codes, self.channels))
        self.register_buffer("usage", torch.full((num_stages, num_codes), 1 / num_codes))
        self.register_buffer("sums", self.codebooks / num_codes)

    @property
    def vocabulary(self) -> Codebooks:
        """The codebooks, shared with the prior."""
        return Codebooks(self.codebooks)

    def forward(self, params: Tensor, model: Any = None) -> Quantised:
        del model
        outputs = at_least_float32(params)
        codes = self.vocabulary.codes(to_positions(outputs, self.channels))
        entries = [book[own] for book, own in zip(self.codebooks, codes.unbind(-1), strict=True)]
        partial = from_positions(torch.stack(entries).cumsum(0))
        return Quantised(outputs, partial[-1], codes, self.usage / self.usage.sum(-1, keepdim=True), partial)

    def next_state(self, trace: Trace) -> dict[str, Tensor]:
        q = cast("Quantised", trace.site.q)
        residual = to_positions(q.outputs, self.channels).flatten(0, -2)
        stages = []
        for *state, codes in zip(self.codebooks, self.usage, self.sums, q.codes.flatten(0, -2).unbind(-1), strict=True):
            stages.append(update_codebook(CodebookState(*state), residual, codes, decay=self.decay, restart=self.restart))
            residual = residual - state[0][codes]
        return _stacked(stages)

    def initial_state(self, trace: Trace) -> dict[str, Tensor]:
        self.check_size(self.codebooks.shape[1], trace)
        residual = subsample(to_positions(cast("Quantised", trace.site.q).outputs, self.channels).flatten(0, -2))
        stages = []
        for noise in self.codebooks:
            stages.append(fit_codebook(noise, residual))
            entries = Codebooks(stages[-1].codebook[None])
            residual = residual - entries.vectors(entries.codes(residual))
        return _stacked(stages)


def _stacked(stages: list[CodebookState]) -> dict[str, Tensor]:
    """Return the states of all stages by buffer name."""
    names = "codebooks", "usage", "sums"
    return {name: torch.stack(each) for name, each in zip(names, zip(*stages, strict=True), strict=True)}
