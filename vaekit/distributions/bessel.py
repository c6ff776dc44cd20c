"""Modified Bessel functions of the first kind ``I_v`` for densities on spheres, for any order and argument.

torch has only orders 0 and 1, and scipy's functions run on the CPU, outside the graph. Here they are branch-free sums and
recurrences of tensors, which can be compiled, stacked and differentiated, without overflow or cancellation.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

NUM_TERMS, LEAST_ORDER = 8, 12.0
"""Number of terms of the expansion for large orders, and the order from which it is used, where its error is at most 1e-9."""

Polynomial = list[Fraction]
"""The coefficients of ``1, p, p^2, …``."""


def _scaled(factor: Fraction, power: int, polynomial: Polynomial) -> Polynomial:
    return [Fraction(0)] * power + [factor * each for each in polynomial]


def _sum(*polynomials: Polynomial) -> Polynomial:
    size = max(map(len, polynomials))
    return [sum((each[i] for each in polynomials if i < len(each)), Fraction(0)) for i in range(size)]


def _derivative(polynomial: Polynomial) -> Polynomial:
    return [i * each for i, each in enumerate(polynomial)][1:] or [Fraction(0)]


def _integral(polynomial: Polynomial) -> Polynomial:
    return [Fraction(0), *(each / (i + 1) for i, each in enumerate(polynomial))]


def _debye(num: int) -> tuple[list[Polynomial], list[Polynomial]]:
    """Return the polynomials ``U_0, U_1, …`` of the expansion, and ``p U_k / 2 + p^2 U_k'``."""
    found = [[Fraction(1)]]
    half, eighth = Fraction(1, 2), Fraction(1, 8)
    for _ in range(num - 1):
        u = found[-1]
        slope = _derivative(u)
        integral = _integral(_sum(u, _scaled(Fraction(-5), 2, u)))
        found.append(_sum(_scaled(half, 2, slope), _scaled(-half, 4, slope), _scaled(eighth, 0, integral)))
    return found, [_sum(_scaled(half, 1, u), _scaled(Fraction(1), 2, _derivative(u))) for u in found]


U, W = ([[float(each) for each in polynomial] for polynomial in found] for found in _debye(NUM_TERMS))


def _at_order(polynomials: list[list[float]], order: float) -> list[float]:
    """Return the coefficients of ``sum_k polynomials[k](p) / order^k``."""
    total = [0.0] * max(map(len, polynomials))
    for k, polynomial in enumerate(polynomials):
        for i, coefficient in enumerate(polynomial):
            total[i] += coefficient / order**k
    return total


def _evaluate(polynomial: list[float], p: Tensor) -> Tensor:
    value = torch.full_like(p, polynomial[-1])
    for coefficient in reversed(polynomial[:-1]):
        value = value * p + coefficient
    return value


def bessel(order: float, kappa: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``kappa - log(G(kappa) / G(0))``, with ``G(kappa) = I_v(kappa) / kappa^v``, and ``kappa (1 - I_{v+1} / I_v)``.

    For a large order, both follow from Debye's expansion, which is uniform in the argument. Smaller orders are reached by the
    recurrence ``I_{v+1} / I_v = kappa / (2 (v + 1) + kappa I_{v+2} / I_{v+1})``, which damps errors. Both are written as sums
    of terms that are 0 for ``kappa = 0`` and of the order of ``v log kappa`` for large ``kappa``.

    Args:
        order: The order v, at least 0.
        kappa: The arguments, at least 0.

    References:
        Olver et al. (2010), "NIST Handbook of Mathematical Functions", Cambridge University Press, sections 10.29 and 10.41.
    """
    steps = max(0, round(LEAST_ORDER - order + 0.5))
    n = order + steps
    root = torch.sqrt(n**2 + kappa.square())
    p = n / root
    coefficients = _at_order(U, n)
    u, w = _evaluate(coefficients, p), _evaluate(_at_order(W, n), p) / n
    shared = 2 * n * kappa / (n + kappa + root)
    more = kappa.square() / (n + root)  # root - n
    deficit = shared + n * torch.log1p(more / (2 * n)) + 0.25 * torch.log1p((kappa / n).square())
    deficit = deficit - torch.log(u / sum(coefficients))
    ratio = 1 / (n + root) - w / (u * root)  # I_{n+1} / (kappa I_n)
    gap = shared + kappa.square() / root * w / u
    for j in range(steps - 1, -1, -1):
        twice = 2 * (order + j + 1)
        deficit = deficit - torch.log1p(kappa.square() * ratio / twice)
        ratio = 1 / (twice + kappa.square() * ratio)
        gap = kappa * ratio * (twice - gap)
    return deficit, gap
