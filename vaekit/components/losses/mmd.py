"""The loss ``mmd``."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

import vaekit
from vaekit.distributions import StandardNormal
from vaekit.errors import UsageError


@vaekit.losses("mmd")
class MMD(vaekit.Loss):
    """Maximum mean discrepancy between the codes of a batch and the prior: InfoVAE with a KL, WAE without one.

    ``MMD² = E k(z, z') - 2 E k(z, y) + E k(y, y')`` with y from the prior and ``k(a, b) = exp(-|a - b|² / (2 s² D))``, averaged
    over the scales s. Expectations over y are computed in closed form for a standard normal; for any other prior they are means
    over as many draws as there are codes. Means are taken over pairs of different examples, which makes them unbiased, so the
    value may be slightly negative. It takes B² D operations per step. It covers neither reconstruction nor KL.

    Args:
        weight: Weight λ of the loss.
        scales: Widths s of the kernel, in units of the square root of the latent size.

    References:
        Gretton et al. (2012), "A Kernel Two-Sample Test", JMLR 13, equations 3 and 4.
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

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor, model: Any) -> Tensor | None:
        """Draw the base noise of ``num`` latent vectors of the prior; none if the prior is a standard normal."""
        if isinstance(model.prior, vaekit.priors.get("normal")):
            return None
        noise: Tensor = model.prior.draw_noise(num, generator, like=like)
        return noise

    def forward(self, trace: vaekit.Trace) -> Tensor:
        site = trace.site
        if isinstance(site.p, StandardNormal):
            value = squared_mmd(site.z, self.scales)
        elif "mmd" in trace.draws:
            value = sampled_squared_mmd(site.z, site.p.rsample(trace.draws["mmd"]), self.scales)
        else:
            raise UsageError(
                "the loss 'mmd' compares codes with draws from the prior, and the trace has none",
                given=f"the prior {type(site.p).__name__}, draws of {', '.join(trace.draws) or 'no loss'}",
                expected="noise under 'mmd' in trace.draws",
                remedy='call the model with draws={"mmd": loss.draw_noise(len(x), like=x, model=model)}',
            )
        trace.metrics["squared_mmd"] = value
        return self.weight * value


def squared_mmd(z: Tensor, scales: Tensor) -> Tensor:
    """Return the unbiased estimate of MMD² between codes ``(B, D)`` and a standard normal, 0-d.

    A single code has no pairs: the term of pairs is then 0.
    """
    dim, norms = z.shape[-1], z.square().sum(-1)
    variance = scales.square() * dim  # of the kernel
    to_prior = (variance / (variance + 1)) ** (dim / 2) * torch.exp(-norms[:, None] / (2 * (variance + 1))).mean(0)
    among_prior = (variance / (variance + 2)) ** (dim / 2)
    return mean_kernel(z, z, scales) + (among_prior - 2 * to_prior).mean()


def sampled_squared_mmd(z: Tensor, y: Tensor, scales: Tensor) -> Tensor:
    """Return the unbiased estimate of MMD² between the distributions of codes and of draws from the prior, both ``(B, D)``, 0-d.

    A code and the draw of the same example are no pair: in a conditional model, they share its label.
    """
    return mean_kernel(z, z, scales) - 2 * mean_kernel(z, y, scales) + mean_kernel(y, y, scales)


def mean_kernel(a: Tensor, b: Tensor, scales: Tensor) -> Tensor:
    """Return the mean of k over all pairs ``(a_i, b_j)`` of different examples, 0-d; 0 if there is a single one."""
    num, dim = a.shape
    squared = (a.square().sum(-1)[:, None] + b.square().sum(-1) - 2 * a @ b.T).clamp(min=0)
    kernel = torch.exp(-squared / (2 * dim * scales.square()[:, None, None])).mean(0)
    return (kernel.sum() - kernel.diagonal().sum()) / max(num * (num - 1), 1)
