"""Categorical variables as one-hot vectors, relaxed to the simplex for gradients, alone or with Gaussian latents."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vaekit.distributions.gaussian import DiagonalGaussian, StandardNormal
from vaekit.distributions.kl import kl_per_dim, register_kl

FARTHEST = 10.0
"""Bound of standard normal noise for which Gumbel noise is finite in float32; samples never reach it."""


def gumbel(noise: Tensor) -> Tensor:
    """Map standard normal noise n to Gumbel noise, ``-log(-log Phi(n))``, accurately in both tails.

    `torch.special.log_ndtr` would do, but has no batching rule for `torch.vmap`.
    """
    tail = 0.5 * torch.erfc(noise.abs().clamp(max=FARTHEST) / math.sqrt(2))  # Phi(-|n|)
    return -torch.log(torch.where(noise > 0, -torch.log1p(-tail), -torch.log(tail)))


def one_hot(scores: Tensor) -> Tensor:
    """Return the one-hot vectors of the largest scores ``(..., K, P)`` along K."""
    classes = torch.arange(scores.shape[-2], device=scores.device)[:, None]
    return (classes == scores.argmax(-2, keepdim=True)).to(scores.dtype)


class OneHot(NamedTuple):
    """Independent categorical variables, N at each of P positions, as one-hot vectors of size K: latents ``(N, K, P)``.

    Samples are one-hot vectors if ``hard``, with the gradients of relaxed ones; otherwise they are relaxed: points on the
    simplex that approach one-hot vectors as the temperature approaches 0. Probabilities refer to one-hot vectors; for relaxed
    samples they are extended linearly, ``sum_k z_k log pi_k``, which is not the density of relaxed samples.

    Args:
        log_probs: The normalised log probabilities of the classes, ``(B, N, K, P)``, or without B for a prior.
        temperature: The temperature of the relaxed samples, 0-d.
        hard: Whether samples are one-hot vectors.

    References:
        Jang et al. (2017), "Categorical Reparameterization with Gumbel-Softmax", ICLR, arXiv:1611.01144, section 2.
        Maddison et al. (2017), "The Concrete Distribution: A Continuous Relaxation of Discrete Random Variables", ICLR,
            arXiv:1611.00712, section 3.
    """

    log_probs: Tensor
    temperature: Tensor
    hard: bool

    @property
    def mean(self) -> Tensor:
        """The probabilities of the classes."""
        return torch.exp(self.log_probs).flatten(-3)

    @property
    def variance(self) -> Tensor:
        """The variance of each number of one-hot vectors."""
        return self.mean * (1 - self.mean)

    def rsample(self, noise: Tensor) -> Tensor:
        """Map standard normal noise ``(*S, B, N K P)`` to samples of the same shape, via Gumbel noise."""
        scores = self.log_probs + gumbel(noise).unflatten(-1, self.log_probs.shape[-3:])
        soft = torch.softmax(scores / self.temperature, -2)
        if not self.hard:
            return torch.flatten(soft, -3)
        return torch.flatten(one_hot(scores) + (soft - soft.detach()), -3)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log probabilities of one-hot vectors ``(*S, B, N K P)``, ``(*S, B)``; linear in the vectors."""
        terms: Tensor = value.unflatten(-1, self.log_probs.shape[-3:]) * self.log_probs
        return terms.sum((-3, -2, -1))


class GaussianAndOneHot(NamedTuple):
    """Independent Gaussian latents followed by categorical ones.

    Args:
        continuous: The density of the first latents.
        discrete: The density of the others.
    """

    continuous: DiagonalGaussian | StandardNormal
    discrete: OneHot

    @property
    def mean(self) -> Tensor:
        return torch.cat([self.continuous.mean, self.discrete.mean], -1)

    @property
    def variance(self) -> Tensor:
        return torch.cat([self.continuous.variance, self.discrete.variance], -1)

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Split ``(..., D)`` into the continuous latents and the others."""
        num = self.continuous.mean.shape[-1]
        return z[..., :num], z[..., num:]

    def rsample(self, noise: Tensor) -> Tensor:
        """Map standard normal noise ``(*S, B, D)`` to samples of the same shape."""
        first, other = self.split(noise)
        return torch.cat([self.continuous.rsample(first), self.discrete.rsample(other)], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return ``log N + log P`` of ``(*S, B, D)``, ``(*S, B)``; see `OneHot` for relaxed samples."""
        first, other = self.split(value)
        return self.continuous.log_prob(first) + self.discrete.log_prob(other)


@register_kl(OneHot, OneHot)
def _one_hot(q: OneHot, p: OneHot) -> Tensor:
    """Return the KL of the discrete variables, each spread evenly over its classes."""
    terms = torch.exp(q.log_probs) * (q.log_probs - p.log_probs)
    kl = terms.sum(-2, keepdim=True).clamp(min=0)  # rounding can make it negative
    return (kl / terms.shape[-2]).expand(terms.shape).flatten(-3)


@register_kl(GaussianAndOneHot, GaussianAndOneHot)
def _gaussian_and_one_hot(q: GaussianAndOneHot, p: GaussianAndOneHot) -> Tensor:
    continuous, discrete = kl_per_dim(q.continuous, p.continuous), kl_per_dim(q.discrete, p.discrete)
    assert continuous is not None  # both are registered
    assert discrete is not None
    return torch.cat([continuous, discrete], -1)
