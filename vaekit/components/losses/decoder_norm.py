"""The norm of the decoder's weights."""

from __future__ import annotations

import torch
from torch import Tensor

from vaekit.interfaces import Loss
from vaekit.nn.schedules import NonNegativeScheduled, scheduled
from vaekit.roles import losses
from vaekit.trace import Trace


@losses("decoder_norm")
class DecoderNorm(Loss):
    """``weight Σ W²`` over the decoder's matrices and kernels, without biases and scales: keeps the decoder smooth.

    The regulariser of RAE-L2. Being part of the objective, it is balanced against the other terms, whereas the optimiser's
    weight decay is decoupled from the loss and shrinks all parts of the model.

    Args:
        weight: Weight of the loss.

    References:
        Ghosh et al. (2020), "From Variational to Deterministic Autoencoders", ICLR, arXiv:1903.12436, section 3.1.
    """

    samples = None

    def __init__(self, *, weight: NonNegativeScheduled = 0.01) -> None:
        super().__init__()
        self.weight = scheduled(weight)

    def forward(self, trace: Trace) -> Tensor:
        weights = [parameter for parameter in trace.model.decoder.parameters() if parameter.ndim > 1]
        squares = [_full_sum(weight.square().sum(dtype=torch.promote_types(weight.dtype, torch.float32))) for weight in weights]
        total = torch.stack(squares).sum() if squares else trace.z.new_zeros(())
        trace.metrics["squared_norm"] = total
        return (self.weight(trace.epoch) * total).expand(trace.z.shape[-2])


def _full_sum(total: Tensor) -> Tensor:
    """Return the sum over all shards of a weight."""
    return total.full_tensor() if hasattr(total, "full_tensor") else total
