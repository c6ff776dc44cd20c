"""Closed-form KL divergences, looked up by the pair of density types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from vaekit.distributions.gaussian import DiagonalGaussian, StandardNormal

KL = Callable[[Any, Any], Tensor]
F = TypeVar("F", bound=Callable[..., Tensor])

_TABLE: dict[tuple[type, type], KL] = {}


def register_kl(q: type, p: type) -> Callable[[F], F]:
    """Register a function ``(q, p) -> (B, D)`` as the KL of that pair of factorised densities, dimension by dimension."""

    def register(function: F) -> F:
        _TABLE[q, p] = function
        return function

    return register


def kl_per_dim(q: object, p: object) -> Tensor | None:
    """Return ``KL(q_d || p_d)`` in nats, ``(B, D)``, or None where no closed form is registered."""
    function = _TABLE.get((type(q), type(p)))
    return None if function is None else function(q, p)


@register_kl(DiagonalGaussian, StandardNormal)
def _gaussian_standard(q: DiagonalGaussian, p: StandardNormal) -> Tensor:
    """Kingma & Welling 2014, appendix B, per dimension."""
    return 0.5 * (q.mu.square() + torch.expm1(q.logvar) - q.logvar)


@register_kl(DiagonalGaussian, DiagonalGaussian)
def _gaussian_gaussian(q: DiagonalGaussian, p: DiagonalGaussian) -> Tensor:
    ratio = q.logvar - p.logvar
    return 0.5 * ((q.mu - p.mu).square() * torch.exp(-p.logvar) + torch.expm1(ratio) - ratio)
