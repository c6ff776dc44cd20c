"""Densities over layers of latents, each conditioned on the layers drawn before it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from vaekit.distributions.density import at_least_float32
from vaekit.distributions.gaussian import DiagonalGaussian, StandardNormal
from vaekit.errors import UsageError

MAX_LOGVAR = 20.0
"""Bound of the log-variances computed by a network, so that their exponentials cannot overflow."""


class Conditional(Protocol):
    """The density of a layer of latents given the layers drawn before it."""

    def given(self, before: Tensor) -> DiagonalGaussian:
        """Return the density given the preceding latents, ``(*S, B, D')``."""
        ...


class Network(NamedTuple):
    """``N(mu, exp(logvar))``, where a fully connected network computes both from the preceding latents.

    Args:
        layers: The weights ``(out, in)`` and biases ``(out,)`` of the network's layers.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]

    def given(self, before: Tensor) -> DiagonalGaussian:
        *hidden, (weight, bias) = self.layers
        h = before
        for each in hidden:
            h = F.silu(F.linear(h, *each))
        mu, logvar = at_least_float32(F.linear(h, weight, bias)).chunk(2, -1)
        return DiagonalGaussian(mu, logvar.clamp(-MAX_LOGVAR, MAX_LOGVAR))


class Merged(NamedTuple):
    """``q(z_l|x, z_<l)``, proportional to ``N(z_l; evidence) p(z_l|z_<l)``: the product of evidence and prior.

    Args:
        evidence: The Gaussian that the encoder derives from the example, ``(B, D_l)``.
        prior: p(z_l|z_<l).

    References:
        Sønderby et al. (2016), "Ladder Variational Autoencoders", NeurIPS, arXiv:1602.02282, section 2.
    """

    evidence: DiagonalGaussian
    prior: Conditional

    def given(self, before: Tensor) -> DiagonalGaussian:
        """Return q(z_l|x, z_<l) for latents ``(*S, B, D')``: precisions add up and weight the means."""
        (mu, logvar), p = self.evidence, self.prior.given(before)
        share = torch.sigmoid(p.logvar - logvar)  # the evidence's share of the precision
        return DiagonalGaussian(torch.lerp(p.mu, mu.expand_as(p.mu), share), -torch.logaddexp(-logvar, -p.logvar))


class Layers(NamedTuple):
    """The density of latents ``z = (z_1, ..., z_L)``, drawn layer by layer, each given the previous ones.

    Args:
        sizes: The numbers of latents of the layers.
        first: The density of the first layer drawn.
        others: The densities of the other layers, in drawing order.
        upward: Whether z_L is drawn first and z_1 last.
    """

    sizes: tuple[int, ...]
    first: DiagonalGaussian | StandardNormal
    others: tuple[Conditional, ...]
    upward: bool = False

    @property
    def mean(self) -> Tensor:
        """The mean of the first layer, the mean of the second given the first, and so on; the true mean has no closed form."""
        parts = [self.first.mean]
        for each in self.others:
            parts.append(each.given(torch.cat(parts, -1)).mean)
        return self._joined(parts)

    def split(self, z: Tensor) -> tuple[Tensor, ...]:
        """Split ``(*S, B, D)`` into z_1, …, z_L."""
        parts: tuple[Tensor, ...] = z.split(self.sizes, -1)
        return parts

    def rsample(self, noise: Tensor) -> Tensor:
        """Map noise ``(*S, B, D)`` to samples, layer by layer."""
        first, *others = self._layers(noise)
        parts = [self.first.rsample(first)]
        for each, part in zip(self.others, others, strict=True):
            parts.append(each.given(torch.cat(parts, -1)).rsample(part))
        return self._joined(parts)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log densities of ``(*S, B, D)``, ``(*S, B)``."""
        return self.conditional_log_probs(value).sum(-1)

    def conditional_log_probs(self, value: Tensor) -> Tensor:
        """Return the log density of each latent given the layers drawn before its own, ``(*S, B, D)``."""
        parts = self._layers(value)
        terms = [self.first.log_prob_per_dim(parts[0])]
        for num, (each, part) in enumerate(zip(self.others, parts[1:], strict=True), 1):
            terms.append(each.given(torch.cat(parts[:num], -1)).log_prob_per_dim(part))
        return self._joined(terms)

    def _layers(self, z: Tensor) -> tuple[Tensor, ...]:
        """Split ``(*S, B, D)`` into layers, in drawing order."""
        parts = self.split(z)
        return parts[::-1] if self.upward else parts

    def _joined(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts[::-1] if self.upward else parts, -1)


def sizes_of(latent_dim: int, layers: int, top: int | None = None) -> tuple[int, ...]:
    """Return the number of latents per layer: equal, or ``top`` in z_1 and equal in the others; no layer is empty.

    Raises:
        UsageError: No latents are left for the layers below the top one.

    Example:
        >>> sizes_of(5, 2), sizes_of(10, 3, top=2), sizes_of(1, 2)
        ((2, 3), (2, 4, 4), (1,))
    """
    if top is not None and (top >= latent_dim or layers == 1):
        raise UsageError(
            "a hierarchy has no latents left for its bottom layer",
            given=f"{top} latents in the top layer, of {latent_dim} in all" + (", and one layer" if layers == 1 else ""),
            expected="fewer latents in the top layer than in total, and at least two layers",
            remedy="increase latent_dim, or reduce top",
        )
    rest, num = (latent_dim, layers) if top is None else (latent_dim - top, layers - 1)
    sizes = [rest * (i + 1) // num - rest * i // num for i in range(num)]
    return tuple(size for size in (top or 0, *sizes) if size)
