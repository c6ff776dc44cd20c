"""Normalising flows without a cheap inverse: Gaussians whose samples pass through invertible steps."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from vaekit.distributions.density import at_least_float32
from vaekit.distributions.gaussian import DiagonalGaussian, StandardNormal

LEAST_SLOPE = 1e-6
"""The minimum factor by which a step stretches any direction, so that its log-determinant is finite."""


class Step(Protocol):
    """An invertible map of latent vectors."""

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map vectors ``(*S, B, D)``; return the result and the log-determinants of the Jacobian, ``(*S, B)``."""
        ...


class Flow(NamedTuple):
    """The distribution of ``f_K(… f_1(z_0))`` for Gaussian z_0; its density is known only at its own samples.

    Args:
        base: The distribution of z_0.
        steps: The steps f_1 to f_K.

    References:
        Rezende and Mohamed (2015), "Variational Inference with Normalizing Flows", ICML, arXiv:1505.05770, equation 13.
    """

    base: DiagonalGaussian
    steps: tuple[Step, ...]

    @property
    def mean(self) -> Tensor:
        """The image of the base's mean, ``(B, D)``; the mean has no closed form."""
        return self.rsample(torch.zeros_like(self.base.mu))

    def rsample(self, noise: Tensor) -> Tensor:
        """Map standard normal noise ``(*S, B, D)`` to samples."""
        return self.rsample_and_log_prob(noise)[0]

    def rsample_and_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Map standard normal noise ``(*S, B, D)`` to samples and their log densities ``(*S, B)``."""
        z = self.base.rsample(noise)
        log_prob = StandardNormal(noise).log_prob(noise) - 0.5 * self.base.logvar.sum(-1)
        for step in self.steps:
            z, log_det = step(z)
            log_prob = log_prob - log_det
        return z, log_prob


class PlanarStep(NamedTuple):
    """``f(z) = z + û tanh(w·z + b)``: stretches or compresses along û, across the plane ``w·z + b = 0``.

    û is u shifted along w so that ``w·û > -1``, which makes f invertible. In the paper, w·û is ``-1 + log(1 + e^(w·u))``; here,
    this is shifted to be 0 where w·u = 0, so that f is the identity at u = 0 and û stays bounded as w vanishes.

    Args:
        u: The unconstrained direction, ``(B, D)``.
        w: The normal vector of the plane, ``(B, D)``.
        b: Its offset, ``(B, 1)``.

    References:
        Rezende and Mohamed (2015), "Variational Inference with Normalizing Flows", ICML, arXiv:1505.05770, equations 10 to 12
            and appendix A.1.
    """

    u: Tensor
    w: Tensor
    b: Tensor

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        product = (self.w * self.u).sum(-1, keepdim=True)
        slope = LEAST_SLOPE + (1 - LEAST_SLOPE) * F.softplus(product + _SHIFT)  # 1 + w·û
        tiny = torch.finfo(z.dtype).tiny
        u = self.u + (slope - 1 - product) * self.w / (self.w.square().sum(-1, keepdim=True) + tiny)
        angle = (self.w * z).sum(-1, keepdim=True) + self.b
        steepness = 4 * torch.sigmoid(2 * angle) * torch.sigmoid(-2 * angle)  # 1 - tanh², without cancellation
        flat = torch.tanh(angle).square()
        log_det = torch.log(flat + steepness * slope)  # 1 + (1 - tanh²) w·û, as a sum of positive terms
        return z + u * torch.tanh(angle), log_det.squeeze(-1)


_SHIFT = 0.5413248546129181
"""``log(e - 1)``, where log(1 + e^x) is 1."""


class RadialStep(NamedTuple):
    """``f(z) = z + β (z - z_0) / (α + |z - z_0|)``: stretches or compresses around a point.

    ``α = softplus(a)`` and ``α + β = softplus(a + b)`` are positive, which makes f invertible. At b = 0, f is the identity.

    Args:
        centre: The point z_0, ``(B, D)``.
        a: The unconstrained α, ``(B, 1)``.
        b: The unconstrained β, ``(B, 1)``.

    References:
        Rezende and Mohamed (2015), "Variational Inference with Normalizing Flows", ICML, arXiv:1505.05770, equation 14 and
            appendix A.2.
    """

    centre: Tensor
    a: Tensor
    b: Tensor

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        alpha, total = F.softplus(self.a) + LEAST_SLOPE, F.softplus(self.a + self.b) + LEAST_SLOPE
        away = z - self.centre
        r = torch.linalg.vector_norm(away, dim=-1, keepdim=True)
        across = (r + total) / (r + alpha)  # the factor by which f stretches the D - 1 directions orthogonal to the radius
        along = (r + alpha * across) / (r + alpha)
        log_det = (z.shape[-1] - 1) * across.log() + along.log()
        return z + (total - alpha) * away / (alpha + r), log_det.squeeze(-1)


class GatedStep(NamedTuple):
    """``f(z) = σ(s) z + (1 - σ(s)) m``, where m_i and s_i are computed from the context and the latents on one side of z_i.

    Args:
        layers: The weights ``(out, in)`` of the network's layers, with autoregressive masks applied.
        biases: The biases of the layers: ``(B, out)`` for the first, which includes the context, then ``(out,)``.

    References:
        Kingma et al. (2016), "Improved Variational Inference with Inverse Autoregressive Flow", NeurIPS, arXiv:1606.04934,
            equations 13 and 14.
    """

    layers: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        h = z
        for number, (weight, bias) in enumerate(zip(self.layers, self.biases, strict=True)):
            h = F.linear(F.silu(h) if number else h, weight) + bias
        m, s = at_least_float32(h).chunk(2, -1)
        return torch.lerp(m, z, torch.sigmoid(s)), F.logsigmoid(s).sum(-1)
