"""The maximum mean discrepancy between codes and the prior."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from vaekit.distributions import StandardNormal, full_precision
from vaekit.interfaces import Loss
from vaekit.nn.schedules import NonNegativeScheduled, scheduled
from vaekit.roles import losses
from vaekit.trace import Trace

Kernel = Literal["rbf", "imq"]


@losses("mmd")
class MMD(Loss):
    """Maximum mean discrepancy between the codes of a batch and the prior: InfoVAE with a KL, WAE without one.

    ``MMD² = E k(z, z') - 2 E k(z, y) + E k(y, y')`` with y from the prior. For ``rbf`` and a standard normal, expectations over
    y have a closed form; otherwise they are averages over as many prior samples as there are codes. The estimate is unbiased,
    as it uses pairs of different examples, so it may be slightly negative. It takes B² D operations per step. The loss covers
    neither reconstruction nor KL.

    Args:
        weight: Weight λ of the loss.
        kernel: Kernel k, averaged over the scales s, of ``d = |a - b|² / (2 s² D)``: `rbf` is ``exp(-d)``, and `imq` is
            ``1 / (1 + d)``, whose gradient reaches codes far from the prior.
        scales: Widths s of the kernel, in units of the square root of the latent size.

    References:
        Gretton et al. (2012), "A Kernel Two-Sample Test", JMLR 13, equations 3 and 4.
        Zhao et al. (2019), "InfoVAE: Balancing Learning and Inference in Variational Autoencoders", AAAI, arXiv:1706.02262.
        Tolstikhin et al. (2018), "Wasserstein Auto-Encoders", ICLR, arXiv:1711.01558.
    """

    batch_statistic = True
    samples = None
    scales: Tensor

    def __init__(
        self,
        *,
        weight: NonNegativeScheduled = 100.0,
        kernel: Kernel = "rbf",
        scales: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.5, 1.0, 2.0),
    ) -> None:
        super().__init__()
        self.weight, self.kernel = scheduled(weight), kernel
        self.register_buffer("scales", torch.tensor(scales), persistent=False)

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor, model: Any) -> Tensor | None:
        """Draw the base noise of ``num`` prior samples; None if the expectations have a closed form."""
        if model.prior.kind == "normal" and self.kernel == "rbf":
            return None
        noise: Tensor = model.prior.draw_noise(num, generator, like=like)
        return noise

    def forward(self, trace: Trace) -> Tensor:
        site = trace.site
        if isinstance(site.p, StandardNormal) and self.kernel == "rbf":
            value = squared_mmd(site.z, self.scales).mean()
        else:
            value = sampled_squared_mmd(site.z, site.p.rsample(self.noise_of(trace)), self.scales, self.kernel).mean()
        trace.metrics["squared_mmd"] = value
        return self.weight(trace.epoch) * value


def squared_mmd(z: Tensor, scales: Tensor) -> Tensor:
    """Return the unbiased estimate of MMD² between codes ``(*S, B, D)`` and a standard normal with the kernel `rbf`, ``(*S)``.

    A single code has no pairs, so their term is 0.
    """
    dim, norms = z.shape[-1], z.square().sum(-1)
    variance = scales.square() * dim  # of the kernel
    to_prior = (variance / (variance + 1)) ** (dim / 2) * torch.exp(-norms.unsqueeze(-1) / (2 * (variance + 1))).mean(-2)
    among_prior = (variance / (variance + 2)) ** (dim / 2)
    return mean_kernel(z, z, scales) + (among_prior - 2 * to_prior).mean(-1)


def sampled_squared_mmd(z: Tensor, y: Tensor, scales: Tensor, kernel: Kernel = "rbf") -> Tensor:
    """Return the unbiased estimate of MMD² between codes ``(*S, B, D)`` and prior samples ``(B, D)``, ``(*S)``.

    A code is not paired with the prior sample of the same example: in a conditional model, they share its label.
    """
    return mean_kernel(z, z, scales, kernel) - 2 * mean_kernel(z, y, scales, kernel) + mean_kernel(y, y, scales, kernel)


def mean_kernel(a: Tensor, b: Tensor, scales: Tensor, kernel: Kernel = "rbf") -> Tensor:
    """Return the mean of k over all pairs ``(a_i, b_j)`` of different examples, ``(*S)``; 0 for a single example."""
    num, dim = a.shape[-2:]
    with full_precision(a):
        squared = (a.square().sum(-1).unsqueeze(-1) + b.square().sum(-1).unsqueeze(-2) - 2 * a @ b.mT).clamp(min=0)
    scaled = squared.unsqueeze(-3) / (2 * dim * scales.square()[:, None, None])
    values = (torch.exp(-scaled) if kernel == "rbf" else 1 / (1 + scaled)).mean(-3)
    return (values.sum((-2, -1)) - values.diagonal(dim1=-2, dim2=-1).sum(-1)) / max(num * (num - 1), 1)
