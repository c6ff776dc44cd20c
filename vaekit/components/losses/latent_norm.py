"""The squared norm of codes."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from vaekit.interfaces import Loss, Slot
from vaekit.nn.schedules import NonNegativeScheduled, scheduled
from vaekit.roles import losses
from vaekit.trace import Trace, mean_over_samples


@losses("latent_norm")
class LatentNorm(Loss):
    """``β |z|² / 2``: keeps the codes of an autoencoder near the origin, as a standard normal prior would, up to a constant.

    With the posterior ``delta``, it is the term of regularised autoencoders that takes the place of the KL.

    Args:
        weight: Weight β.

    References:
        Ghosh et al. (2020), "From Variational to Deterministic Autoencoders", ICLR, arXiv:1903.12436, equation 11.
    """

    covers: ClassVar[frozenset[Slot]] = frozenset({"divergence"})
    samples = None

    def __init__(self, *, weight: NonNegativeScheduled = 1.0) -> None:
        super().__init__()
        self.weight = scheduled(weight)

    def forward(self, trace: Trace) -> Tensor:
        return self.weight(trace.epoch) * mean_over_samples(0.5 * trace.z.square().sum(-1))
