"""A learned mixture of Gaussians as the prior."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vaekit.distributions import GaussianMixture
from vaekit.interfaces import Capability, Prior
from vaekit.roles import priors
from vaekit.schema import Count


@priors("mixture")
class Mixture(Prior):
    """A mixture of diagonal Gaussians, all of whose parameters are learned: clusters of codes need not be forced together.

    It has no closed-form KL, so the KL is estimated by the samples. Components start with means drawn from N(0, I).

    Args:
        latent_dim: Number of latents.
        num_components: Number of Gaussians.

    References:
        Tomczak and Welling (2018), "VAE with a VampPrior", AISTATS, arXiv:1705.07120, section 2.
    """

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})

    def __init__(self, latent_dim: int, *, num_components: Count = 10) -> None:
        super().__init__(latent_dim)
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.mu = nn.Parameter(torch.randn(num_components, latent_dim))
        self.log_std = nn.Parameter(torch.zeros(num_components, latent_dim))

    def forward(self, model: Any = None, c: Tensor | None = None) -> GaussianMixture:
        del model, c
        return GaussianMixture(self.logits, self.mu, self.log_std)

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor, temperature: float = 1.0) -> Tensor:
        """Draw ``(num, D + 1)``: standard normal noise, and a number that selects the component."""
        noise = super().draw_noise(num, generator, like=like, temperature=temperature)
        component = torch.rand(num, 1, generator=generator, device=like.device, dtype=like.dtype)
        return torch.cat([noise, component], -1)
