"""Densities on the Poincaré ball, the hyperbolic space of curvature -c: points with norms below ``c^(-1/2)``.

geoopt has these maps, but they branch on the sign of a tensor, which torch.compile cannot trace, and its projection keeps
float32 points within 6 units of 0. Here they are functions of squared distances, which do not cancel near the boundary.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)
SMALL = 1e-2
"""Below this, functions of squares are computed by series, whose error is at most 1e-12 with six terms."""


def _with_series(x: Tensor, function: Tensor, series: tuple[float, ...]) -> Tensor:
    """Return a function of x, or its series where x is small."""
    small, value = x.clamp(max=SMALL), torch.zeros_like(x)
    for coefficient in reversed(series):
        value = value * small + coefficient
    return torch.where(x < SMALL, value, function)


def _tanhc(square: Tensor) -> Tensor:
    """Return ``tanh(x) / x`` of ``x^2``."""
    x = torch.sqrt(square.clamp(min=SMALL))
    return _with_series(square, torch.tanh(x) / x, (1, -1 / 3, 2 / 15, -17 / 315, 62 / 2835, -1382 / 155925))


def _asinhc(square: Tensor) -> Tensor:
    """Return ``arsinh(x) / x`` of ``x^2``."""
    x = torch.sqrt(square.clamp(min=SMALL))
    return _with_series(square, torch.asinh(x) / x, (1, -1 / 6, 3 / 40, -5 / 112, 35 / 1152, -63 / 2816))


def _log_sinhc(square: Tensor) -> Tensor:
    """Return ``log(sinh(x) / x)`` of ``x^2``."""
    x = torch.sqrt(square.clamp(min=SMALL))
    return _with_series(
        square, x + torch.log(-0.5 * torch.expm1(-2 * x) / x), (0, 1 / 6, -1 / 180, 1 / 2835, -1 / 37800, 1 / 467775)
    )


def squared(vectors: Tensor) -> Tensor:
    """Return squared lengths ``(…, 1)``."""
    return vectors.square().sum(-1, keepdim=True)


def inside(z: Tensor, c: Tensor) -> Tensor:
    """Return points ``(…, D)``, moved inside if their dtype cannot distinguish them from the boundary."""
    largest = (1 - torch.finfo(z.dtype).eps ** 0.75) / torch.sqrt(c)
    length = torch.sqrt(squared(z).clamp(min=torch.finfo(z.dtype).tiny))
    return torch.where(length > largest, z * (largest / length), z)


def move(mu: Tensor, w: Tensor, c: Tensor) -> Tensor:
    """Return the Möbius sum of points ``mu`` and ``w``: the point at ``w`` as seen from ``mu``."""
    room, apart = 1 - c * squared(mu), squared(mu + w)
    return (room * (mu + w) + c * apart * mu) / (c * apart + room * (1 - c * squared(w)))


def exp_map(mu: Tensor, v: Tensor, c: Tensor) -> Tensor:
    """Return the exponential map of ``v`` at ``mu``, in an orthonormal frame parallel to that at 0.

    References:
        Mathieu et al. (2019), "Continuous Hierarchical Representations with Poincaré Variational Auto-Encoders", NeurIPS,
            arXiv:1901.06033, section 2.
    """
    return inside(move(mu, inside(0.5 * _tanhc(0.25 * c * squared(v)) * v, c), c), c)


def log_map(mu: Tensor, z: Tensor, c: Tensor) -> Tensor:
    """Return the vector ``v`` with ``exp_map(mu, v) = z``."""
    away, room, other = z - mu, 1 - c * squared(mu), 1 - c * squared(z)
    apart = squared(away)
    ratio = c * apart / (room * other)  # sinh^2 of half the distance
    numerator = room * away - c * apart * mu
    return 2 * _asinhc(ratio) * torch.sqrt(1 + ratio) / (c * apart + room * other) * numerator


class WrappedNormal(NamedTuple):
    """The normal density of the tangent space at ``mu``, wrapped onto the Poincaré ball along geodesics.

    Densities are with respect to hyperbolic volume, which the map from the tangent space scales by ``(sinh(r) / r)^(D-1)`` at
    the distance ``r / c^(1/2)``.

    Args:
        mu: The centres, points of the ball, ``(B, D)``.
        log_std: The log standard deviations in the tangent space, ``(B, D)``.
        c: The negative of the curvature, 0-d.

    References:
        Nagano et al. (2019), "A Wrapped Normal Distribution on Hyperbolic Space for Gradient-Based Learning", ICML,
            arXiv:1902.02992, section 3.
        Mathieu et al. (2019), "Continuous Hierarchical Representations with Poincaré Variational Auto-Encoders", NeurIPS,
            arXiv:1901.06033, section 3.
    """

    mu: Tensor
    log_std: Tensor
    c: Tensor

    @property
    def mean(self) -> Tensor:
        """The centre, around which the distribution is symmetric."""
        return self.mu

    def rsample(self, noise: Tensor) -> Tensor:
        """Map standard normal noise ``(*S, B, D)`` to points of the ball.

        Points that cannot be distinguished from the boundary, at a distance of about 12 from 0 in float32, are moved inside.
        """
        return exp_map(self.mu, torch.exp(self.log_std) * noise, self.c)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log densities of points ``(*S, B, D)``, ``(*S, B)``; points outside the ball are moved inside."""
        v = log_map(self.mu, inside(value, self.c), self.c)
        normal = -0.5 * (LOG_2PI + (v * torch.exp(-self.log_std)).square()) - self.log_std
        volume = _log_sinhc(self.c * squared(v)).squeeze(-1)
        return normal.sum(-1) - (v.shape[-1] - 1) * volume

    def project(self, value: Tensor) -> Tensor:
        """Return the points of the ball nearest to vectors ``(…, D)``."""
        return inside(value, self.c)

    def geodesic(self, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        """Return the geodesic from ``a`` to ``b`` ``(D,)`` at ``t`` ``(N,)``, ``(N, D)``."""
        return exp_map(a, t[:, None] * log_map(a, b, self.c), self.c)
