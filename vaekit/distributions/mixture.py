"""Mixtures of diagonal Gaussians."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaekit.distributions.gaussian import LOG_2PI


def selected(logits: Tensor, noise: Tensor) -> Tensor:
    """Return the components ``(...)`` selected by the last element of noise ``(..., D + 1)``, which is uniform on [0, 1)."""
    bounds = torch.softmax(logits, 0).cumsum(0)[:-1]
    return (noise[..., -1:] >= bounds).sum(-1)


class GaussianMixture(NamedTuple):
    """``sum_k w_k N(mu_k, diag exp(2 log_std_k))`` over latent vectors.

    Args:
        logits: The logits of the weights, ``(K,)``.
        mu: The means, ``(K, D)``.
        log_std: The log standard deviations, ``(K, D)``.
    """

    logits: Tensor
    mu: Tensor
    log_std: Tensor

    @property
    def mean(self) -> Tensor:
        return torch.softmax(self.logits, 0) @ self.mu

    def rsample(self, noise: Tensor) -> Tensor:
        """Map noise ``(*S, B, D + 1)`` to samples ``(*S, B, D)``; the last element, uniform on [0, 1), selects the component.

        Samples are differentiable with respect to the selected component.
        """
        component = selected(self.logits, noise)
        return self.mu[component] + torch.exp(self.log_std[component]) * noise[..., :-1]

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log densities of ``(*S, B, D)``, ``(*S, B)``."""
        scaled = (value.unsqueeze(-2) - self.mu) * torch.exp(-self.log_std)
        components = -(0.5 * (scaled.square() + LOG_2PI) + self.log_std).sum(-1)
        return torch.logsumexp(components + torch.log_softmax(self.logits, 0), -1)


class FullGaussianMixture(NamedTuple):
    """``sum_k w_k N(mu_k, L_k L_k^T)`` over latent vectors.

    Args:
        logits: The logits of the weights, ``(K,)``.
        mu: The means, ``(K, D)``.
        tril: The Cholesky factors L of the covariances, lower triangular with a positive diagonal, ``(K, D, D)``.
    """

    logits: Tensor
    mu: Tensor
    tril: Tensor

    @property
    def mean(self) -> Tensor:
        return torch.softmax(self.logits, 0) @ self.mu

    def rsample(self, noise: Tensor) -> Tensor:
        """Map noise ``(*S, B, D + 1)`` to samples ``(*S, B, D)``: the last number, uniform on [0, 1), selects the component."""
        component = selected(self.logits, noise)
        return self.mu[component] + (self.tril[component] * noise[..., None, :-1]).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log densities of ``(*S, B, D)``, ``(*S, B)``."""
        centred = (value.unsqueeze(-2) - self.mu).unsqueeze(-1)
        shape = centred.shape[:-3]
        rows = centred.flatten(0, -4).movedim(0, -1).flatten(-2)  # (K, D, N): one solve per component
        scaled = torch.linalg.solve_triangular(self.tril, rows, upper=False)
        log_det = torch.log(self.tril.flatten(-2)[:, :: self.mu.shape[-1] + 1]).sum(-1, keepdim=True)
        components = -0.5 * (scaled.square().sum(1) + self.mu.shape[-1] * LOG_2PI) - log_det
        weighted = components + torch.log_softmax(self.logits, 0).unsqueeze(-1)
        return torch.logsumexp(weighted, 0).view(shape)


class MixtureOf(NamedTuple):
    """The equally weighted mixture of the K densities of a batch.

    Args:
        parts: A density with a batch dimension K.
    """

    parts: Any

    @property
    def mean(self) -> Tensor:
        mean: Tensor = self.parts.mean.mean(0)
        return mean

    def rsample(self, noise: Tensor) -> Tensor:
        """Map noise ``(*S, B, D + 1)`` to samples ``(*S, B, D)``: the last number, uniform on [0, 1), selects the density."""
        num = len(self.parts.mean)
        own = noise[..., None, :-1].expand(*noise.shape[:-1], num, noise.shape[-1] - 1)
        chosen = (noise[..., -1:] * num).long().clamp(max=num - 1)
        every: Tensor = self.parts.rsample(own)
        return every.gather(-2, chosen[..., None].expand(*chosen.shape, every.shape[-1])).squeeze(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log densities of ``(*S, B, D)``, ``(*S, B)``."""
        scores: Tensor = self.parts.log_prob(value.unsqueeze(-2))
        return torch.logsumexp(scores, -1) - math.log(len(self.parts.mean))
