"""Densities on the unit sphere ``S^{D-1}`` of D-dimensional unit vectors, with respect to its area."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vaekit.distributions.bessel import bessel
from vaekit.distributions.density import at_least_float32
from vaekit.distributions.kl import register_kl
from vaekit.distributions.quantile import quantile
from vaekit.errors import UsageError

SHIFT = 8
"""The argument from which Stirling's series is used, reached in steps of 1; with 4 terms, its error is at most 1e-11."""
STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680)


def log_area(dim: int) -> float:
    """Return the logarithm of the area of the unit sphere in ``dim`` dimensions."""
    return math.log(2) + 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim)


def check_sphere(dim: int) -> None:
    """Check that the sphere is connected.

    Raises:
        UsageError: There is only one dimension.
    """
    if dim < 2:
        raise UsageError(
            "a sphere needs two dimensions or more", given=f"{dim} latent", expected="2 or more", remedy="increase latent_dim"
        )


def polar(params: Tensor, max_kappa: float) -> tuple[Tensor, Tensor]:
    """Return mean directions ``(B, D)`` and concentrations ``(B,)`` of encoder outputs ``(B, 2, D)``.

    A concentration is the mean of D outputs, so that the output also works for grids of latents. It is D times the softplus of
    the mean, since the density is nearly uniform for concentrations far below D.
    """
    direction, raw = at_least_float32(params).unbind(-2)
    kappa = direction.shape[-1] * F.softplus(raw.mean(-1))
    return normalised(direction), kappa.clamp(max=max_kappa)


def normalised(vectors: Tensor) -> Tensor:
    """Normalise vectors ``(…, D)``; 0 becomes the first unit vector."""
    length, tiny = vectors.norm(dim=-1, keepdim=True), torch.finfo(vectors.dtype).tiny
    pole = F.pad(torch.ones_like(vectors[..., :1]), (0, vectors.shape[-1] - 1))
    return torch.where(length > tiny, vectors / length.clamp(min=tiny), pole)


def rotated(mu: Tensor, points: Tensor) -> Tensor:
    """Apply a rotation or reflection that maps the first unit vector to the unit vectors ``mu`` to points ``(…, D)``.

    This is the Householder reflection to the farther of ``mu`` and ``-mu``, whose denominator is never below 1.
    """
    sign = 2 * (mu[..., :1] >= 0).to(mu.dtype) - 1
    axis = torch.cat([mu[..., :1] + sign, mu[..., 1:]], -1)
    along = (axis * points).sum(-1, keepdim=True) / (1 + mu[..., :1].abs())
    return sign * (along * axis - points)


def cap(y: Tensor, direction: Tensor) -> Tensor:
    """Return the points ``(…, D)`` with first coordinate ``w = tanh(y / 2)`` and a given direction in the other coordinates."""
    return torch.cat([torch.tanh(0.5 * y).unsqueeze(-1), normalised(direction) / torch.cosh(0.5 * y).unsqueeze(-1)], -1)


class VonMisesFisher(NamedTuple):
    """``q(z)`` proportional to ``exp(kappa mu · z)`` for unit vectors z: the analogue of the normal on the sphere.

    Args:
        mu: The mean directions, ``(B, D)``, of length 1.
        kappa: The concentrations, ``(B,)``, at least 0; for 0, the density is uniform.

    References:
        Davidson et al. (2018), "Hyperspherical Variational Auto-Encoders", UAI, arXiv:1804.00891, section 3.1.
    """

    mu: Tensor
    kappa: Tensor

    @property
    def mean(self) -> Tensor:
        """The mean directions, on the sphere; the Euclidean mean is ``I_{D/2}(kappa) / I_{D/2-1}(kappa)`` times that."""
        return self.mu

    def rsample(self, noise: Tensor) -> Tensor:
        """Map standard normal noise ``(*S, B, D)`` to samples: the first number to ``mu · z``, the others to the direction.

        ``y = 2 artanh(mu · z)`` is sampled by its quantiles: for any ``kappa``, its density has a width of at most ``2 (D -
        1)^(-1/2)`` and exponential tails.
        """
        b, kappa = _half(self.mu), self.kappa.unsqueeze(-1)
        ratio = self.kappa / b
        secant = torch.sqrt(1 + ratio.square())

        def log_density(y: Tensor) -> Tensor:
            return b * (F.logsigmoid(y) + F.logsigmoid(-y)) - 2 * kappa * torch.sigmoid(-y)

        y = quantile(log_density, torch.asinh(ratio), torch.sqrt((1 + secant) / (b * secant)), noise[..., 0])
        return rotated(self.mu, cap(y, noise[..., 1:]))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log densities of unit vectors ``(*S, B, D)``, ``(*S, B)``."""
        deficit, _ = bessel(0.5 * self.mu.shape[-1] - 1, self.kappa)
        distance = (value - self.mu).square().sum(-1)  # 2 (1 - mu · z), without cancellation
        return deficit - 0.5 * self.kappa * distance - log_area(self.mu.shape[-1])


class PowerSpherical(NamedTuple):
    """``q(z)`` proportional to ``(1 + mu · z)^kappa`` for unit vectors z: ``(1 + mu · z) / 2`` has a Beta distribution.

    Args:
        mu: The mean directions, ``(B, D)``, of length 1.
        kappa: The concentrations, ``(B,)``, at least 0; for 0, the density is uniform.

    References:
        De Cao and Aziz (2020), "The Power Spherical Distribution", arXiv:2006.04437.
    """

    mu: Tensor
    kappa: Tensor

    @property
    def mean(self) -> Tensor:
        """The mean directions, on the sphere; the Euclidean mean is ``kappa / (D - 1 + kappa)`` times that."""
        return self.mu

    def rsample(self, noise: Tensor) -> Tensor:
        """Map standard normal noise ``(*S, B, D)`` to samples: the first number to ``mu · z``, the others to the direction."""
        b, kappa = _half(self.mu), self.kappa.unsqueeze(-1)
        a = b + self.kappa

        def log_density(y: Tensor) -> Tensor:
            return (b + kappa) * F.logsigmoid(y) + b * F.logsigmoid(-y)

        y = quantile(log_density, torch.log1p(self.kappa / b), torch.sqrt((a + b) / (a * b)), noise[..., 0])
        return rotated(self.mu, cap(y, noise[..., 1:]))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log densities of unit vectors ``(*S, B, D)``, ``(*S, B)``; minus infinity at the antipode is clipped."""
        excess, _ = _power_normaliser(self)
        far = 0.25 * (value - self.mu).square().sum(-1)  # (1 - mu · z) / 2, and then (1 + mu · z) / 2
        near = (0.25 * (value + self.mu).square().sum(-1)).clamp(min=torch.finfo(value.dtype).tiny)
        log_share = torch.where(far < 0.5, torch.log1p(-far.clamp(max=0.5)), torch.log(near))
        return excess + self.kappa * log_share - log_area(self.mu.shape[-1])


class UniformSphere(NamedTuple):
    """The uniform density on the unit sphere; ``zero``, a tensor of zeros ``(D,)``, sets size, device and dtype."""

    zero: Tensor

    @property
    def mean(self) -> Tensor:
        """The Euclidean mean, 0."""
        return self.zero

    def rsample(self, noise: Tensor) -> Tensor:
        """Return the directions of standard normal noise ``(*S, B, D)``."""
        return normalised(noise + self.zero)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return minus the logarithm of the sphere's area, ``(*S, B)``."""
        return value.new_full(value.shape[:-1], -log_area(value.shape[-1]))

    def project(self, value: Tensor) -> Tensor:
        """Return the points of the sphere nearest to vectors ``(…, D)``."""
        return normalised(value)

    def geodesic(self, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        """Return the great-circle arc from ``a`` to ``b`` ``(D,)`` at ``t`` ``(N,)``, ``(N, D)``; any arc between antipodes."""
        toward = b - (a @ b) * a
        angle = torch.atan2(toward.norm(), a @ b)
        any_other = F.one_hot(a.abs().argmin(), len(a)).to(a.dtype)
        side = torch.where(toward.norm() > 1e-6, toward, any_other - (any_other @ a) * a)
        return normalised(torch.cos(t * angle)[:, None] * a + torch.sin(t * angle)[:, None] * normalised(side))


def _half(mu: Tensor) -> float:
    """Return ``(D - 1) / 2``."""
    return 0.5 * (mu.shape[-1] - 1)


def _power_normaliser(q: PowerSpherical) -> tuple[Tensor, Tensor]:
    """Return minus the log of the mean of ``((1 + mu · z) / 2)^kappa`` on the sphere, and its derivative in ``kappa``."""
    b = _half(q.mu)
    value, slope = log_gamma_difference(q.kappa + b, b)
    return value - (math.lgamma(2 * b) - math.lgamma(b)), slope


def log_gamma_difference(a: Tensor, b: float) -> tuple[Tensor, Tensor]:
    """Return ``log(Gamma(a + b) / Gamma(a))`` for ``a >= 1/2``, and its derivative in ``a``.

    The Stirling series of both are subtracted term by term, since their difference would cancel in float32.
    """
    steps = a.unsqueeze(-1) + torch.arange(SHIFT, device=a.device, dtype=a.dtype)
    x = a + SHIFT
    value = (x - 0.5) * torch.log1p(b / x) + b * torch.log(x + b) - b - torch.log1p(b / steps).sum(-1)
    slope = torch.log1p(b / x) + b / (2 * x * (x + b)) + (b / (steps * (steps + b))).sum(-1)
    for i, coefficient in enumerate(STIRLING):
        power = 2 * i + 1
        value = value + coefficient * ((x + b) ** -power - x**-power)
        slope = slope - coefficient * power * ((x + b) ** -(power + 1) - x ** -(power + 1))
    return value, slope


def _spread(kl: Tensor, dim: int) -> Tensor:
    """Divide a KL ``(B,)`` that does not decompose over dimensions into ``dim`` equal parts, ``(B, D)``."""
    return (kl / dim).unsqueeze(-1).expand(*kl.shape, dim)


@register_kl(VonMisesFisher, UniformSphere)
def _fisher_uniform(q: VonMisesFisher, p: UniformSphere) -> Tensor:
    """Return the KL in equal parts.

    References:
        Davidson et al. (2018), "Hyperspherical Variational Auto-Encoders", UAI, arXiv:1804.00891, section 3.2.
    """
    del p
    deficit, gap = bessel(0.5 * q.mu.shape[-1] - 1, q.kappa)
    return _spread(deficit - gap, q.mu.shape[-1])


@register_kl(PowerSpherical, UniformSphere)
def _power_uniform(q: PowerSpherical, p: UniformSphere) -> Tensor:
    """Return the KL in equal parts.

    References:
        De Cao and Aziz (2020), "The Power Spherical Distribution", arXiv:2006.04437.
    """
    del p
    excess, slope = _power_normaliser(q)
    return _spread(excess - q.kappa * slope, q.mu.shape[-1])
