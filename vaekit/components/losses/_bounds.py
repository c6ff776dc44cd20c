"""Helpers of the importance-weighted bounds."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def negative_bound(weight: Tensor) -> Tensor:
    """Return ``-log (1/K) sum_k w_k`` of log weights ``(..., K, B)``, ``(..., B)``.

    References:
        Burda et al. (2016), "Importance Weighted Autoencoders", ICLR, arXiv:1509.00519, equation 8.
    """
    return math.log(weight.shape[-2]) - torch.logsumexp(weight, -2)
