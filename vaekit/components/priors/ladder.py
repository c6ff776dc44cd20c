"""A prior of two layers of latents."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vaekit.distributions import StandardNormal
from vaekit.distributions.ladder import TopDown, TwoLayers
from vaekit.errors import UsageError
from vaekit.interfaces import Capability, Prior
from vaekit.nn.layers import Widths, initialize_weights
from vaekit.roles import priors
from vaekit.schema import Count


@priors("ladder")
class Ladder(Prior):
    """Two layers of latents, ``p(z) = N(z2; 0, I) N(z1; mu(z2), diag sigma²(z2))``: the prior of a ladder VAE.

    The first latents are z2. The decoder sees both layers. A single latent is all of z2.

    Args:
        latent_dim: Number of latents D.
        top: Number of latents z2 of the top layer; default: half of all, rounded down.
        hidden: Widths of the hidden layers of the network that computes mu and sigma.

    References:
        Sønderby et al. (2016), "Ladder Variational Autoencoders", NeurIPS, arXiv:1602.02282, section 2.
    """

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})
    space = "ladder"
    zero: Tensor

    def __init__(self, latent_dim: int, *, top: Count | None = None, hidden: Widths = (128,)) -> None:
        super().__init__(latent_dim)
        if top is not None and top >= latent_dim:
            raise UsageError(
                "the prior 'ladder' has no latents left for its bottom layer",
                given=f"{top} latents in the top layer, of {latent_dim} in all",
                expected="fewer in the top layer than in all",
                remedy="raise latent_dim, or lower top",
            )
        num = max(1, latent_dim // 2) if top is None else top
        self.register_buffer("zero", torch.zeros(num), persistent=False)
        widths = (num, *hidden, 2 * (latent_dim - num)) if num < latent_dim else ()
        self.layers = nn.ModuleList(nn.Linear(*each) for each in pairwise(widths))
        initialize_weights(self.layers[:-1])

    def forward(self, model: Any = None, c: Tensor | None = None) -> TwoLayers:
        del model, c
        layers = tuple((layer.weight, layer.bias) for layer in self.layers if isinstance(layer, nn.Linear))
        return TwoLayers(StandardNormal(self.zero), TopDown(layers))
