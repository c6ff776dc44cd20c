"""The standard normal prior."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from vaekit.distributions import StandardNormal
from vaekit.interfaces import Capability, Prior
from vaekit.roles import priors


@priors("normal")
class Normal(Prior):
    """Standard normal ``p(z) = N(0, I)``.

    References:
        Kingma and Welling (2014), "Auto-Encoding Variational Bayes", ICLR, arXiv:1312.6114, section 3.
    """

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB, Capability.FACTORISED})
    zero: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.register_buffer("zero", torch.zeros(latent_dim), persistent=False)

    def forward(self, model: Any = None, c: Tensor | None = None) -> StandardNormal:
        del model, c
        return StandardNormal(self.zero)
