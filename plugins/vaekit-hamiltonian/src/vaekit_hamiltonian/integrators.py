"""Volume-preserving leapfrog trajectories of latents and momenta under a potential U(z).

After each step, the momentum is multiplied by a factor of ``cooling``; nothing else changes the volume.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from vaekit.distributions import full_precision

Gradient: TypeAlias = Callable[[Tensor], Tensor]
"""Maps latents ``(B, D)`` to the gradient of U at each of them, ``(B, D)``."""


def gradient_of(function: Callable[[Tensor], Tensor]) -> Gradient:
    """Return the gradient of a function ``(B, D) -> (B,)`` that treats examples independently."""
    return torch.func.grad(lambda z: function(z).sum())


def quadratic_cooling(beta_zero: Tensor, num_steps: int) -> Tensor:
    """Return the factors for the momentum after each of K steps, ``(K,)``; their product is the square root of β₀.

    ``sqrt(β_{k-1} / β_k)``, with ``1 / sqrt(β_k)`` on a parabola from ``1 / sqrt(β₀)`` to 1.

    References:
        Caterini et al. (2018), "Hamiltonian Variational Auto-Encoder", NeurIPS, arXiv:1805.11328, section 3.
    """
    progress = torch.arange(num_steps + 1, dtype=beta_zero.dtype, device=beta_zero.device) / max(num_steps, 1)
    heat = beta_zero.rsqrt() + (1 - beta_zero.rsqrt()) * progress.square()
    return heat[1:] / heat[:-1]


def leapfrog(z: Tensor, rho: Tensor, gradient: Gradient, *, step: Tensor, cooling: Tensor) -> tuple[Tensor, Tensor]:
    """Follow the Hamiltonian ``U(z) + |rho|² / 2`` for K steps; return the last latents and momenta.

    Args:
        z: Latents, ``(B, D)``.
        rho: Momenta, ``(B, D)``.
        gradient: The gradient of U, which is evaluated K + 1 times.
        step: The step size, 0-d or per latent, ``(D,)``.
        cooling: A factor of the momentum after each step, ``(K,)``.

    References:
        Caterini et al. (2018), "Hamiltonian Variational Auto-Encoder", NeurIPS, arXiv:1805.11328, algorithm 1.
    """
    force = gradient(z)
    for factor in cooling.unbind():
        half = rho - 0.5 * step * force
        z = z + step * half
        force = gradient(z)
        rho = factor * (half - 0.5 * step * force)
    return z, rho


class Metric(NamedTuple):
    """The Riemannian metric whose inverse is ``G⁻¹(z) = λ I + sum_i L_i L_iᵀ exp(-|z - c_i|² / T²)``.

    Near a centroid c_i, momenta move latents along L_i; far from all of them, where there are no data, they hardly move.

    Args:
        centroids: The centroids c_i, ``(N, D)``.
        factors: The matrices L_i, ``(N, D, D)``.
        temperature: T, 0-d.
        regularization: λ, 0-d.

    References:
        Chadebec et al. (2022), "Data Augmentation in High Dimensional Low Sample Size Setting Using a Geometry-Based Variational
            Autoencoder", TPAMI, arXiv:2105.00026.
    """

    centroids: Tensor
    factors: Tensor
    temperature: Tensor
    regularization: Tensor

    def inverse(self, z: Tensor) -> Tensor:
        """Return G⁻¹ at latents ``(B, D)``, ``(B, D, D)``."""
        squared = (z[:, None] - self.centroids).square().sum(-1)
        near = torch.exp(-squared / self.temperature.square())
        eye = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
        with full_precision(z):
            matrices = self.factors @ self.factors.mT
            return torch.einsum("bn,nij->bij", near, matrices) + self.regularization * eye

    def root(self, z: Tensor) -> Tensor:
        """Return the lower Cholesky factor of G⁻¹, ``(B, D, D)``."""
        return torch.linalg.cholesky_ex(self.inverse(z)).L  # a check would wait for the device

    def momentum(self, z: Tensor, noise: Tensor) -> Tensor:
        """Map standard normal noise to momenta ``N(0, G(z))``, ``(B, D)``."""
        return torch.linalg.solve_triangular(self.root(z).mT, noise[..., None], upper=True)[..., 0]

    def kinetic(self, z: Tensor, rho: Tensor) -> Tensor:
        """Return ``rhoᵀ G⁻¹(z) rho / 2 + log det G(z) / 2``, ``(B,)``."""
        root = self.root(z)
        scaled = _times(root.mT, rho)
        diagonal = (root * torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)).sum(-1)
        return 0.5 * scaled.square().sum(-1) - diagonal.log().sum(-1)


def riemannian_leapfrog(
    z: Tensor, rho: Tensor, gradient: Gradient, metric: Metric, *, step: Tensor, cooling: Tensor, iterations: int
) -> tuple[Tensor, Tensor]:
    """Follow the Hamiltonian ``U(z) + rhoᵀ G⁻¹(z) rho / 2 + log det G(z) / 2`` for K generalised leapfrog steps.

    Two of the three parts of a step are implicit and solved by fixed-point iteration, whose error is the error of the volume.

    Args:
        z: Latents, ``(B, D)``.
        rho: Momenta, ``(B, D)``.
        gradient: The gradient of U, which is evaluated K + 1 times.
        metric: The metric.
        step: The step size, 0-d.
        cooling: A factor of the momentum after each step, ``(K,)``.
        iterations: The number of iterations for an implicit equation.

    References:
        Girolami and Calderhead (2011), "Riemann Manifold Langevin and Hamiltonian Monte Carlo Methods", Journal of the Royal
            Statistical Society B 73.
        Chadebec et al. (2022), "Data Augmentation in High Dimensional Low Sample Size Setting Using a Geometry-Based Variational
            Autoencoder", TPAMI, arXiv:2105.00026.
    """
    force = gradient(z)
    for factor in cooling.unbind():
        pull, half = force, rho
        for _ in range(iterations):
            half = rho - 0.5 * step * (pull + _kinetic_force(metric, z, half))
        velocity, moved = _times(metric.inverse(z), half), z
        for _ in range(iterations):
            moved = z + 0.5 * step * (velocity + _times(metric.inverse(moved), half))
        z, force = moved, gradient(moved)
        rho = factor * (half - 0.5 * step * (force + _kinetic_force(metric, z, half)))
    return z, rho


def _kinetic_force(metric: Metric, z: Tensor, rho: Tensor) -> Tensor:
    """Return the gradient of the kinetic energy with respect to z, ``(B, D)``."""
    return gradient_of(lambda z: metric.kinetic(z, rho))(z)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    with full_precision(vector):
        return torch.einsum("bij,bj->bi", matrix, vector)
