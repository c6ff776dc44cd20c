"""The norm of the codes."""

from __future__ import annotations

from torch import Tensor

from vaekit.interfaces import Loss
from vaekit.nn.schedules import NonNegativeScheduled, scheduled
from vaekit.roles import losses
from vaekit.trace import Trace, mean_over_samples


@losses("latent_norm")
class LatentNorm(Loss):
    """``weight ½|z|²``: keeps the codes of a plain autoencoder near 0, as the KL does in a VAE.

    With the posterior `delta`, this is the latent term of regularised autoencoders. Without a decoder regulariser, such as
    `decoder_norm` or `gradient_penalty`, the decoder can undo it by scaling up small codes. With a weight of 1, it is ``-log
    p(z)`` under a standard normal, up to a constant.

    Args:
        weight: Weight of the loss.

    References:
        Ghosh et al. (2020), "From Variational to Deterministic Autoencoders", ICLR, arXiv:1903.12436, section 3.
    """

    samples = None

    def __init__(self, *, weight: NonNegativeScheduled = 0.1) -> None:
        super().__init__()
        self.weight = scheduled(weight)

    def forward(self, trace: Trace) -> Tensor:
        return 0.5 * self.weight(trace.epoch) * mean_over_samples(trace.z.square().sum(-1))
