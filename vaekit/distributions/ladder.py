"""Densities over two layers of latents, of which the bottom one depends on the top one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vaekit.distributions.density import at_least_float32
from vaekit.distributions.gaussian import DiagonalGaussian, StandardNormal

MAX_LOGVAR = 20.0
"""Bound of the log-variances that a network computes, so that their exponentials cannot overflow."""


class TopDown(NamedTuple):
    """``p(z1|z2) = N(mu(z2), diag exp(logvar(z2)))``, both of which a fully connected network computes.

    Args:
        layers: The weights ``(out, in)`` and biases ``(out,)`` of its layers; none if there are no latents z1.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]

    def given(self, z2: Tensor) -> DiagonalGaussian:
        """Return p(z1|z2) for top latents ``(*S, B, D2)``."""
        if not self.layers:
            return DiagonalGaussian(z2[..., :0], z2[..., :0])
        *hidden, (weight, bias) = self.layers
        h = z2
        for each in hidden:
            h = F.silu(F.linear(h, *each))
        mu, logvar = at_least_float32(F.linear(h, weight, bias)).chunk(2, -1)
        return DiagonalGaussian(mu, logvar.clamp(-MAX_LOGVAR, MAX_LOGVAR))


class Merged(NamedTuple):
    """``q(z1|x, z2)``, in proportion to ``N(z1; evidence) p(z1|z2)``: what an example says of z1, and what z2 says of it.

    Args:
        evidence: The Gaussian that the encoder derives from the example, ``(B, D1)``.
        prior: p(z1|z2).

    References:
        Sønderby et al. (2016), "Ladder Variational Autoencoders", NeurIPS, arXiv:1602.02282, equations 18 and 19.
    """

    evidence: DiagonalGaussian
    prior: TopDown

    def given(self, z2: Tensor) -> DiagonalGaussian:
        """Return q(z1|x, z2) for top latents ``(*S, B, D2)``: precisions add up, and weight the means."""
        (mu, logvar), p = self.evidence, self.prior.given(z2)
        share = torch.sigmoid(p.logvar - logvar)  # of the evidence in the precision
        return DiagonalGaussian(torch.lerp(p.mu, mu.expand_as(p.mu), share), -torch.logaddexp(-logvar, -p.logvar))


class TwoLayers(NamedTuple):
    """The density of latents ``z = (z2, z1)``, of which z2 is drawn first and z1 given z2.

    Args:
        top: The density of z2, with D2 dimensions.
        bottom: The density of z1 given z2.
    """

    top: DiagonalGaussian | StandardNormal
    bottom: TopDown | Merged

    @property
    def mean(self) -> Tensor:
        """The mean of z2, and the mean of z1 given that; the mean of z1 has no closed form."""
        z2 = self.top.mean
        return torch.cat([z2, self.bottom.given(z2).mean], -1)

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Split ``(*S, B, D)`` into the layers z2 and z1."""
        num = self.top.mean.shape[-1]
        return z[..., :num], z[..., num:]

    def rsample(self, noise: Tensor) -> Tensor:
        """Map noise ``(*S, B, D)`` to samples, layer by layer."""
        top, bottom = self.split(noise)
        z2 = self.top.rsample(top)
        return torch.cat([z2, self.bottom.given(z2).rsample(bottom)], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log densities of ``(*S, B, D)``, ``(*S, B)``."""
        return self.log_prob_in_turn(value).sum(-1)

    def log_prob_in_turn(self, value: Tensor) -> Tensor:
        """Return the log densities of the latents z2, and of the latents z1 given z2, ``(*S, B, D)``."""
        z2, z1 = self.split(value)
        return torch.cat([self.top.log_prob_per_dim(z2), self.bottom.given(z2).log_prob_per_dim(z1)], -1)
