"""A prior of several layers of latents."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from vaekit.distributions import StandardNormal
from vaekit.distributions.ladder import Layers, Network, sizes_of
from vaekit.interfaces import Capability, Prior, Shape
from vaekit.nn.chains import chained, weights_of
from vaekit.nn.layers import Widths
from vaekit.roles import priors
from vaekit.schema import Count


@priors("ladder")
class Ladder(Prior):
    """Layers of latents from the top down, ``p(z) = N(z_1; 0, I) prod_l N(z_l; mu_l(z_<l), diag sigma_l²(z_<l))``.

    The prior of hierarchical VAEs. The decoder sees all layers, of which the first latents are the top one. Over a grid
    (``--latent-stride``), a layer is some of its channels, and networks are convolutional. Layers that would be empty are left
    out.

    Args:
        latent_dim: Number of latents D.
        latent_shape: The shape of the latents: a vector, or channels of a grid.
        layers: Number of layers.
        top: Number of latents of the top layer, or of its channels; default: an equal part. The other layers share the rest.
        hidden: Widths of the hidden layers of the networks that compute mu and sigma.

    References:
        Sønderby et al. (2016), "Ladder Variational Autoencoders", NeurIPS, arXiv:1602.02282, section 2.
    """

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})
    space = "ladder"
    zero: Tensor

    def __init__(
        self, latent_dim: int, latent_shape: Shape, *, layers: Count = 2, top: Count | None = None, hidden: Widths = (128,)
    ) -> None:
        super().__init__(latent_dim)
        channels, *sides = latent_shape
        sizes = sizes_of(channels, layers, top)
        self.sides, self.sizes = tuple(sides), tuple(size * math.prod(sides) for size in sizes)
        self.register_buffer("zero", torch.zeros(self.sizes[0]), persistent=False)
        self.networks = chained(sizes, hidden, len(sides))

    def forward(self, model: Any = None, c: Tensor | None = None) -> Layers:
        del model, c
        networks = tuple(Network(weights_of(each), self.sides) for each in self.networks)
        return Layers(self.sizes, StandardNormal(self.zero), networks)
