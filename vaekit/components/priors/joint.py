"""The prior of Gaussian and categorical latents."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from vaekit.distributions import GaussianAndOneHot, OneHot, StandardNormal
from vaekit.interfaces import Capability, Prior, Shape
from vaekit.roles import priors


@priors("joint")
class Joint(Prior):
    """A standard normal and, at each position, a categorical variable with uniform classes: the prior of JointVAE.

    References:
        Dupont (2018), "Learning Disentangled Joint Continuous and Discrete Representations", NeurIPS, arXiv:1804.00104.
    """

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})
    space = "joint"
    zero: Tensor
    logits: Tensor
    one: Tensor

    def __init__(self, latent_dim: int, latent_shape: Shape, code_sizes: Shape) -> None:
        super().__init__(latent_dim)
        logits = torch.zeros(1, code_sizes[0], math.prod(latent_shape[1:]))
        self.register_buffer("zero", torch.zeros(latent_dim - logits.numel()), persistent=False)
        self.register_buffer("logits", logits, persistent=False)
        self.register_buffer("one", torch.tensor(1.0), persistent=False)

    def forward(self, model: Any = None, c: Tensor | None = None) -> GaussianAndOneHot:
        del model, c
        one_hot = OneHot(torch.log_softmax(self.logits, -2), self.one, hard=True)
        return GaussianAndOneHot(StandardNormal(self.zero), one_hot)

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor, temperature: float = 1.0) -> Tensor:
        """Draw standard normal noise ``(num, D)``; the temperature has no effect on classes."""
        noise = super().draw_noise(num, generator, like=like)
        return torch.cat([temperature * noise[:, : len(self.zero)], noise[:, len(self.zero) :]], -1)
