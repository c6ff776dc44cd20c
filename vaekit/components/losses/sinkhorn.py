"""The Sinkhorn divergence between codes and the prior."""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import PositiveFloat
from torch import Tensor

from vaekit.distributions import full_precision
from vaekit.interfaces import Loss
from vaekit.nn.schedules import NonNegativeScheduled, scheduled
from vaekit.roles import losses
from vaekit.schema import Few
from vaekit.trace import Trace


@losses("sinkhorn")
class Sinkhorn(Loss):
    """``λ S(codes, draws)``: the debiased cost of transporting the codes of a batch to as many draws from the prior.

    ``S(a, b) = OT(a, b) - OT(a, a) / 2 - OT(b, b) / 2`` for squared distances with an entropic penalty ε: the squared Wasserstein
    distance as ε → 0, a maximum mean discrepancy as ε → ∞. It takes B² operations per iteration, for B codes. It covers neither
    reconstruction nor KL.

    The iterations are our own 10 lines: libraries of optimal transport stop at convergence, which a compiled step cannot.

    Args:
        weight: Weight λ.
        epsilon: Penalty ε, in units of the latent size.
        iterations: Number of iterations.

    References:
        Patrini et al. (2019), "Sinkhorn AutoEncoders", UAI, arXiv:1810.01118, section 3.
        Feydy et al. (2019), "Interpolating between Optimal Transport and MMD using Sinkhorn Divergences", AISTATS,
            arXiv:1810.08278, equation 3.
    """

    batch_statistic = True

    def __init__(self, *, weight: NonNegativeScheduled = 10.0, epsilon: PositiveFloat = 0.1, iterations: Few = 20) -> None:
        super().__init__()
        self.weight, self.epsilon, self.iterations = scheduled(weight), epsilon, iterations

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor, model: Any) -> Tensor:
        """Draw the base noise of ``num`` latent vectors of the prior."""
        noise: Tensor = model.prior.draw_noise(num, generator, like=like)
        return noise

    def forward(self, trace: Trace) -> Tensor:
        z, y = trace.z, trace.site.p.rsample(self.noise_of(trace))
        value = divergence(z, y, self.epsilon * z.shape[-1], self.iterations)
        trace.metrics["sinkhorn_divergence"] = value
        return self.weight(trace.epoch) * value


def divergence(a: Tensor, b: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Return the Sinkhorn divergence between samples ``(N, D)`` and ``(M, D)``, 0-d."""
    pairs = ((a, b), (a, a), (b, b))
    across, within_a, within_b = (transport_cost(*pair, epsilon, iterations) for pair in pairs)
    return across - 0.5 * (within_a + within_b)


def transport_cost(a: Tensor, b: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Return the entropic cost of transport between samples ``(N, D)`` and ``(M, D)``, each of equal weights, 0-d.

    It is the value of the dual problem, a lower bound that converges as the iterations go on.
    """
    with full_precision(a):
        cost = (a.square().sum(-1)[:, None] + b.square().sum(-1) - 2 * a @ b.T).clamp(min=0)
    g = b.new_zeros(len(b))
    for _ in range(iterations):
        f = epsilon * (math.log(len(b)) - torch.logsumexp((g - cost) / epsilon, 1))
        g = epsilon * (math.log(len(a)) - torch.logsumexp((f - cost.T) / epsilon, 1))
    return f.mean() + g.mean()
