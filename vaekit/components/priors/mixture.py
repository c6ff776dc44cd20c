"""A learned mixture of Gaussians as the prior."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vaekit.components.priors._mixtures import MixturePrior
from vaekit.distributions import GaussianMixture
from vaekit.roles import priors
from vaekit.schema import Count


@priors("mixture")
class Mixture(MixturePrior):
    """A learned mixture of diagonal Gaussians, which lets the codes form clusters.

    The KL has no closed form and is estimated from samples. The component means are initialised from N(0, I).

    Args:
        latent_dim: Number of latents.
        num_components: Number of Gaussians.

    References:
        Tomczak and Welling (2018), "VAE with a VampPrior", AISTATS, arXiv:1705.07120.
    """

    def __init__(self, latent_dim: int, *, num_components: Count = 10) -> None:
        super().__init__(latent_dim)
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.mu = nn.Parameter(torch.randn(num_components, latent_dim))
        self.log_std = nn.Parameter(torch.zeros(num_components, latent_dim))

    def forward(self, model: Any = None, c: Tensor | None = None) -> GaussianMixture:
        del model, c
        return GaussianMixture(self.logits, self.mu, self.log_std)
