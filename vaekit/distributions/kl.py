"""Closed-form KL divergences, looked up by the pair of density types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from vaekit.distributions.gaussian import DiagonalGaussian, FullGaussian, StandardNormal

KL = Callable[[Any, Any], Tensor]
F = TypeVar("F", bound=Callable[..., Tensor])

_TABLE: dict[tuple[type, type], KL] = {}


def register_kl(q: type, p: type) -> Callable[[F], F]:
    """Return a decorator that registers a closed-form KL: a function ``(q, p) -> (B, D)``, per dimension.

    If dimensions depend on each other, each term is the contribution of a dimension given the preceding ones; terms always sum
    to the KL.

    Args:
        q: Type of the first density.
        p: Type of the second density.
    """

    def register(function: F) -> F:
        _TABLE[q, p] = function
        return function

    return register


def kl_per_dim(q: object, p: object) -> Tensor | None:
    """Return ``KL(q_d || p_d)`` in nats, ``(B, D)``, or None if no closed form is registered.

    If dimensions depend on each other, each term is the contribution of a dimension given the preceding ones.

    Example:
        >>> q = DiagonalGaussian(torch.ones(1, 2), torch.zeros(1, 2))
        >>> kl_per_dim(q, StandardNormal(torch.zeros(2)))
        tensor([[0.5000, 0.5000]])
    """
    function = _TABLE.get((type(q), type(p)))
    return None if function is None else function(q, p)


@register_kl(DiagonalGaussian, StandardNormal)
def _gaussian_standard(q: DiagonalGaussian, p: StandardNormal) -> Tensor:
    """Return the KL to a standard normal.

    References:
        Kingma and Welling (2014), "Auto-Encoding Variational Bayes", ICLR, arXiv:1312.6114, appendix B.
    """
    return 0.5 * (q.mu.square() + torch.expm1(q.logvar) - q.logvar)


@register_kl(FullGaussian, StandardNormal)
def _full_standard(q: FullGaussian, p: StandardNormal) -> Tensor:
    """Return the contribution of each dimension given the preceding ones: the mean of ``log q(z_d|z_<d) - log p(z_d)``."""
    return 0.5 * (q.mu.square() + q.variance - 1 - q.logvar)


@register_kl(DiagonalGaussian, DiagonalGaussian)
def _gaussian_gaussian(q: DiagonalGaussian, p: DiagonalGaussian) -> Tensor:
    ratio = q.logvar - p.logvar
    return 0.5 * ((q.mu - p.mu).square() * torch.exp(-p.logvar) + torch.expm1(ratio) - ratio)
