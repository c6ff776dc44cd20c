"""DIP-VAE: a penalty on the covariance of the codes."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from vaekit.distributions import full_precision
from vaekit.interfaces import Capability, Loss
from vaekit.nn.schedules import NonNegativeScheduled, scheduled
from vaekit.roles import losses
from vaekit.trace import Trace

Variant = Literal["i", "ii"]


@losses("dip")
class DIP(Loss):
    """``λ_od Σ_{i≠j} C_ij² + λ_d Σ_i (C_ii - 1)²``, added to the KL: DIP-VAE makes codes uncorrelated with unit variance.

    C is the covariance over images of the posterior means (`i`), or of sampled codes, noise included (`ii`). It is estimated
    from the batch with ``B D^2`` products per step. The KL comes from ``kl`` or a replacement such as ``beta``.

    Args:
        variant: Covariance of the posterior means (`i`) or of sampled codes (`ii`).
        lambda_od: Weight λ_od of the covariances.
        lambda_d: Weight λ_d of the variances; for `i`, the paper uses ten times λ_od.

    References:
        Kumar et al. (2018), "Variational Inference of Disentangled Latent Concepts from Unlabeled Observations", ICLR,
            arXiv:1711.00848, equations 6 and 7.
    """

    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB_OF_DRAWS})  # for the KL
    batch_statistic = True
    samples = None

    def __init__(
        self, *, variant: Variant = "i", lambda_od: NonNegativeScheduled = 10.0, lambda_d: NonNegativeScheduled = 100.0
    ) -> None:
        super().__init__()
        self.lambda_od, self.lambda_d = scheduled(lambda_od), scheduled(lambda_d)
        self.variant: Variant = variant

    def forward(self, trace: Trace) -> Tensor:
        total = covariance(trace.site.q.mean if self.variant == "i" else trace.z.flatten(0, -2))
        eye = torch.eye(len(total), device=total.device, dtype=total.dtype)
        squares = (total - eye).square()
        off_diagonal, diagonal = (squares * (1 - eye)).sum(), (squares * eye).sum()
        trace.metrics.update(off_diagonal=off_diagonal, diagonal=diagonal)
        return self.lambda_od(trace.epoch) * off_diagonal + self.lambda_d(trace.epoch) * diagonal


def covariance(codes: Tensor) -> Tensor:
    """Return the covariance of ``(N, D)``, ``(D, D)``, in full precision; divided by N, so it is 0 for a single code."""
    centred = codes - codes.mean(0)
    with full_precision(codes):
        return centred.mT @ centred / len(codes)
