"""The loss ``mmd``."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

import vaekit
from vaekit.distributions import StandardNormal
from vaekit.errors import UsageError


@vaekit.losses("mmd")
class MMD(vaekit.Loss):
    """Maximum mean discrepancy between the codes of a batch and a standard normal prior: InfoVAE with a KL, WAE without one.

    ``MMD² = E k(z, z') - 2 E k(z, y) + E k(y, y')`` with y from the prior and ``k(a, b) = exp(-|a - b|² / (2 s² D))``, averaged
    over the scales s. Expectations over y are computed in closed form; the first is the unbiased mean over pairs of different
    codes, so the value may be slightly negative. It takes B² D operations per step. It covers neither reconstruction nor KL.

    Args:
        weight: Weight λ of the loss.
        scales: Widths s of the kernel, in units of the square root of the latent size.

    References:
        Gretton et al. (2012), "A Kernel Two-Sample Test", JMLR 13, equation 3.
        Zhao et al. (2019), "InfoVAE: Balancing Learning and Inference in Variational Autoencoders", AAAI, arXiv:1706.02262.
        Tolstikhin et al. (2018), "Wasserstein Auto-Encoders", ICLR, arXiv:1711.01558.
    """

    batch_statistic = True
    weight: Tensor
    scales: Tensor

    def __init__(
        self,
        *,
        weight: NonNegativeFloat = 100.0,
        scales: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.5, 1.0, 2.0),
    ) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor(weight), persistent=False)
        self.register_buffer("scales", torch.tensor(scales), persistent=False)

    def forward(self, trace: vaekit.Trace) -> Tensor:
        site = trace.site
        if not isinstance(site.p, StandardNormal):
            raise UsageError(
                "the loss 'mmd' is implemented for a standard normal only",
                given=f"the prior {type(site.p).__name__}",
                remedy="use --prior normal",
            )
        value = squared_mmd(site.z.flatten(0, -2), self.scales)
        trace.metrics["squared_mmd"] = value
        return self.weight * value


def squared_mmd(z: Tensor, scales: Tensor) -> Tensor:
    """Return the unbiased estimate of MMD² between codes ``(B, D)`` and a standard normal, 0-d.

    A single code has no pairs: the term of pairs is then 0.
    """
    num, dim = z.shape
    variance = (scales.square() * dim)[:, None]  # of the kernel, (scales, 1)
    norms = z.square().sum(-1)
    squared = (norms[:, None] + norms - 2 * z @ z.T).clamp(min=0)
    pairs = torch.exp(-squared.flatten() / (2 * variance)).sum(-1) - num
    among_codes = pairs / max(num * (num - 1), 1)
    to_prior = (variance / (variance + 1)) ** (dim / 2) * torch.exp(-norms / (2 * (variance + 1)))
    among_prior = (variance / (variance + 2)) ** (dim / 2)
    return (among_codes - 2 * to_prior.mean(-1) + among_prior.squeeze(-1)).mean()
