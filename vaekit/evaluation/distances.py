"""Distances between two sets of feature vectors, in double precision on the CPU."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vaekit.data.sources import sample_of

MOST_OF_KERNEL = 5000
"""The largest number of vectors in a set that the kernel distance compares: its time grows with their square."""


class Statistics(NamedTuple):
    """The statistics of a set of N feature vectors that the distances need.

    Args:
        mean: Their mean, ``(F,)``.
        covariance: Their unbiased covariance, ``(F, F)``.
        sample: Up to `MOST_OF_KERNEL` of them, spread over the set, ``(M, F)``.
    """

    mean: Tensor
    covariance: Tensor
    sample: Tensor


def statistics_of(features: Tensor) -> Statistics:
    """Return the statistics of two or more feature vectors ``(N, F)``."""
    exact = features.detach().cpu().double()
    sample = exact[sample_of(len(exact), min(MOST_OF_KERNEL, len(exact)))]
    return Statistics(exact.mean(0), exact.T.cov(), sample.clone())


def frechet_distance(one: Statistics, other: Statistics) -> float:
    """Return ``|m - m'|² + tr(C + C' - 2 (C C')^½)``: the squared distance between Gaussians with these means and covariances.

    It is biased, larger for fewer vectors, so only distances between equally many vectors can be compared.

    References:
        Heusel et al. (2017), "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", NeurIPS,
            arXiv:1706.08500, equation 6.
    """
    values, vectors = torch.linalg.eigh(one.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    mixed = torch.linalg.eigvalsh(root @ other.covariance @ root).clamp(min=0).sqrt().sum()  # the trace of (C C')^½
    means = (one.mean - other.mean).square().sum()
    distance: float = (means + one.covariance.trace() + other.covariance.trace() - 2 * mixed).item()
    return max(distance, 0.0)  # rounding may make it negative


def kernel_distance(one: Statistics, other: Statistics) -> float:
    """Return the squared maximum mean discrepancy with the kernel ``(x·y / F + 1)³``, estimated without bias.

    References:
        Bińkowski et al. (2018), "Demystifying MMD GANs", ICLR, arXiv:1801.01401, section 4.
    """
    x, y = one.sample, other.sample

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        each = kernel(a, a)
        return (each.sum() - each.trace()) / (len(a) * (len(a) - 1))

    distance: float = (within(x) + within(y) - 2 * kernel(x, y).mean()).item()
    return distance
