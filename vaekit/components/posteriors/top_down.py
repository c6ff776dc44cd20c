"""EXPERIMENT"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaekit.distributions import DiagonalGaussian, at_least_float32
from vaekit.distributions.ladder import Layers, Merged, Residual, sizes_of
from vaekit.interfaces import Capability, Posterior, Shape
from vaekit.nn.layers import Widths, initialize_weights
from vaekit.roles import posteriors


class Informed(NamedTuple):
    params: Tensor
    layers: Any
    prior: Any
    mode: str

    def given(self, before):
        *hidden, (w, b) = self.layers
        lead = before.shape[:-1]
        h = torch.cat([before, self.params.expand(*lead, -1)], -1)
        for each in hidden:
            h = F.silu(F.linear(h, *each))
        mu, logvar = at_least_float32(F.linear(h, w, b)).chunk(2, -1)
        cls = Merged if self.mode == "merged" else Residual
        if self.mode == "free":
            return DiagonalGaussian(mu, logvar.clamp(-20, 20))
        return cls(DiagonalGaussian(mu, logvar.clamp(-20, 20)), self.prior).given(before)


@posteriors("top_down")
class TopDown(Posterior):
    """EXPERIMENT

    Args:
        layers: x.
        hidden: x.
        mode: x.
        networks: x.
    """

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})
    space = "ladder"
    default_prior = "ladder"

    def __init__(
        self,
        latent_dim: int,
        *,
        layers: int = 2,
        hidden: Widths = (128,),
        mode: Literal["merged", "residual", "free"] = "residual",
        networks: bool = True,
    ) -> None:
        super().__init__(latent_dim)
        self.sizes = sizes_of(latent_dim, layers)
        self.mode = mode
        self.networks = nn.ModuleList()
        if networks:
            for above, size in zip(accumulate(self.sizes), self.sizes[1:], strict=False):
                network = nn.ModuleList(nn.Linear(*each) for each in pairwise((above + 2 * latent_dim, *hidden, 2 * size)))
                initialize_weights(network[:-1])
                self.networks.append(network)

    @property
    def param_shape(self) -> Shape:
        return (2, self.latent_dim)

    def forward(self, params: Tensor, model: Any = None) -> Layers:
        p = model.prior(model)
        params = at_least_float32(params)
        mu, raw = params.unbind(-2)
        parts = zip(p.split(mu), p.split(raw.clamp(-20, 20)), strict=True)
        first, *others = (DiagonalGaussian(*each) for each in parts)
        if len(self.networks):
            flat = params.flatten(-2)
            below = [
                Informed(flat, tuple((l.weight, l.bias) for l in net), prior, self.mode)
                for net, prior in zip(self.networks, p.others)
            ]
        else:
            below = [
                (Merged if self.mode == "merged" else Residual)(each, given) for each, given in zip(others, p.others, strict=True)
            ]
        return Layers(p.sizes, first, tuple(below))
