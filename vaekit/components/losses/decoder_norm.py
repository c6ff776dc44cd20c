"""The squared norm of the decoder's parameters."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from vaekit.interfaces import GENERATION, Aim, Loss
from vaekit.nn.schedules import NonNegativeScheduled, scheduled
from vaekit.roles import losses
from vaekit.trace import Trace


@losses("decoder_norm")
class DecoderNorm(Loss):
    """``λ |θ|²`` over the parameters θ of the decoder: codes that are near to each other are decoded to similar examples.

    It covers nothing. Unlike ``--weight-decay``, it is a term of the objective, of the decoder alone, biases included.

    Args:
        weight: Weight λ, in nats.

    References:
        Ghosh et al. (2020), "From Variational to Deterministic Autoencoders", ICLR, arXiv:1903.12436, section 3.1.
    """

    samples = None

    def __init__(self, *, weight: NonNegativeScheduled = 1e-3) -> None:
        super().__init__()
        self.weight = scheduled(weight)

    def aims(self) -> dict[str, Aim]:
        return {"decoder_norm": Aim(moves=GENERATION)}

    def forward(self, trace: Trace) -> Tensor:
        squares = [parameter.square().sum() for parameter in trace.model.decoder.parameters()]
        value = reduce(torch.add, squares) if squares else trace.z.new_zeros(())
        return (self.weight(trace.epoch) * value).expand(trace.z.shape[-2])
