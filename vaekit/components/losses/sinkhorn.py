"""The Sinkhorn divergence between codes and the prior."""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import PositiveFloat
from torch import Tensor

from vaekit.interfaces import Loss
from vaekit.nn.schedules import NonNegativeScheduled, scheduled
from vaekit.roles import losses
from vaekit.schema import Count
from vaekit.trace import Trace


@losses("sinkhorn")
class Sinkhorn(Loss):
    """``weight S(z, y)``: entropy-regularised optimal transport from the codes of a batch to prior samples y.

    ``S(z, y) = W(z, y) - W(z, z) / 2 - W(y, y) / 2``, where W is the cost of the transport plan that minimises ``E|z - y|² + ε
    KL(plan || independence)``. The last two terms remove the bias due to ε. A small ε approaches optimal transport; a large ε
    compares only means. It takes ``3 B^2`` operations per iteration. With finite samples, it is positive even for codes that
    follow the prior. The loss covers neither reconstruction nor KL: with the posterior `delta`, the model is a Sinkhorn
    autoencoder. A learned prior is trained through its samples, except for mixture weights, which only select components.

    Iterations run in the log domain, with ε decreasing to the chosen value. Optimal transport libraries stop at a tolerance,
    which a compiled step cannot do, so the iterations are implemented here.

    Args:
        weight: Weight of the loss.
        epsilon: Weight ε of the entropy, relative to the latent size D.
        num_iterations: Number of iterations.

    References:
        Patrini et al. (2019), "Sinkhorn AutoEncoders", UAI, arXiv:1810.01118.
        Feydy et al. (2019), "Interpolating between Optimal Transport and MMD using Sinkhorn Divergences", AISTATS,
            arXiv:1810.08278, equation 3.
    """

    batch_statistic = True
    samples = None
    epsilon: Tensor

    def __init__(self, *, weight: NonNegativeScheduled = 10.0, epsilon: PositiveFloat = 0.1, num_iterations: Count = 20) -> None:
        super().__init__()
        self.weight, self.num_iterations = scheduled(weight), num_iterations
        self.register_buffer("epsilon", torch.tensor(epsilon), persistent=False)

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor, model: Any) -> Tensor:
        """Draw the base noise of ``num`` prior samples."""
        noise: Tensor = model.prior.draw_noise(num, generator, like=like)
        return noise

    def forward(self, trace: Trace) -> Tensor:
        z = trace.z
        y = trace.site.p.rsample(self.noise_of(trace)).to(z.dtype)
        value = sinkhorn_divergence(z, y.expand_as(z), z.shape[-1] * self.epsilon, self.num_iterations).mean()
        trace.metrics["sinkhorn_divergence"] = value
        return self.weight(trace.epoch) * value


def sinkhorn_divergence(z: Tensor, y: Tensor, epsilon: Tensor, num_iterations: int) -> Tensor:
    """Return the debiased transport cost between equally weighted points ``(*S, B, D)``, ``(*S)``."""
    costs = torch.stack([squared_distances(z, y), squared_distances(z, z), squared_distances(y, y)])
    between, of_z, of_y = transport(costs, epsilon, num_iterations)
    divergence: Tensor = between - 0.5 * (of_z + of_y)
    return divergence


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return ``|a_i - b_j|²``, ``(*S, B, B)``, from differences: a matrix product would be less accurate."""
    return (a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1)


def transport(cost: Tensor, epsilon: Tensor, num_iterations: int) -> Tensor:
    """Return the minimum of ``<plan, cost> + ε KL(plan || uniform)`` over plans with uniform marginals, ``(*S)``.

    The dual potentials are detached, so the gradient is the plan and memory does not grow with the iterations. Both are updated
    simultaneously, so the result is symmetric. ε decreases from the mean cost to its final value over the first half of the
    iterations; otherwise, a small ε would need many more.
    """
    fixed, log_num = cost.detach(), math.log(cost.shape[-1])
    final = epsilon.log()
    start = torch.maximum(fixed.mean((-2, -1)).log(), final)
    f = g = fixed.new_zeros(fixed.shape[:-1])
    for i in range(num_iterations):
        now = torch.exp(start + (final - start) * min(1.0, 2 * i / num_iterations)).unsqueeze(-1)
        f, g = 0.5 * (f + softmin(fixed, g, now, log_num)), 0.5 * (g + softmin(fixed.mT, f, now, log_num))
    f_of_g, g_of_f = softmin(cost, g, epsilon, log_num), softmin(cost.mT, f, epsilon, log_num)
    return 0.5 * (f + f_of_g + g + g_of_f).mean(-1)


def softmin(cost: Tensor, potential: Tensor, epsilon: Tensor, log_num: float) -> Tensor:
    """Return ``-ε log mean_j exp((potential_j - cost_ij) / ε)``, ``(*S, B)``."""
    return -epsilon * (torch.logsumexp((potential.unsqueeze(-2) - cost) / epsilon.unsqueeze(-1), -1) - log_num)
