"""The prior of categorical latents."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vaekit.distributions import OneHot
from vaekit.interfaces import Capability, Prior, Shape
from vaekit.roles import priors


@priors("categorical")
class Categorical(Prior):
    """Independent categorical variables, by default with equally probable classes. Samples are one-hot vectors.

    Args:
        learned: Whether to learn the class probabilities.

    References:
        Jang et al. (2017), "Categorical Reparameterization with Gumbel-Softmax", ICLR, arXiv:1611.01144.
    """

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})
    space = "one_hot"
    one: Tensor

    def __init__(self, latent_dim: int, latent_shape: Shape, code_sizes: Shape, *, learned: bool = False) -> None:
        super().__init__(latent_dim)
        zero = torch.zeros(len(code_sizes), code_sizes[0], math.prod(latent_shape[1:]))
        if learned:
            self.logits: Tensor = nn.Parameter(zero)
        else:
            self.register_buffer("logits", zero, persistent=False)
        self.register_buffer("one", torch.tensor(1.0), persistent=False)

    def forward(self, model: Any = None, c: Tensor | None = None) -> OneHot:
        del model, c
        return OneHot(torch.log_softmax(self.logits, -2), self.one, hard=True)

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor, temperature: float = 1.0) -> Tensor:
        """Draw standard normal noise ``(num, D)``; the temperature has no effect."""
        del temperature
        return super().draw_noise(num, generator, like=like)
