"""Multimodal distributions over 8-bit grey levels."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vaekit.distributions.density import sum_event
from vaekit.distributions.pixels import LEVEL, DiscretizedLogisticPixels

NUM_LEVELS = 256


class DiscretizedLogisticMixturePixels(NamedTuple):
    """Independent 8-bit pixels: mixtures of K logistic variables rounded to the nearest grey level in [0, 1].

    Args:
        logits: The logits of the weights, ``(*S, B, K, *event)``.
        location: The locations, of the same shape.
        log_scale: The log scales, of the same shape.
        event_ndim: The number of dimensions of an example.
    """

    logits: Tensor
    location: Tensor
    log_scale: Tensor
    event_ndim: int = 3

    @property
    def components(self) -> DiscretizedLogisticPixels:
        return DiscretizedLogisticPixels(self.location, self.log_scale, self.event_ndim)

    @property
    def mean(self) -> Tensor:
        dim = -self.event_ndim - 1
        return (torch.softmax(self.logits, dim) * self.components.mean).sum(dim)

    def rsample(self, noise: Tensor) -> Tensor:
        """Map uniform noise to grey levels: it selects a component, and the remainder is the component's noise."""
        chosen, left = choose(self.logits, noise, -self.event_ndim - 1)
        location, log_scale = (each.gather(-self.event_ndim - 1, chosen) for each in (self.location, self.log_scale))
        return DiscretizedLogisticPixels(location, log_scale).rsample(left).squeeze(-self.event_ndim - 1)

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        dim = -self.event_ndim - 1
        each = self.components.log_prob_per_dim(value.unsqueeze(dim))
        return torch.logsumexp(torch.log_softmax(self.logits, dim) + each, dim)

    def log_prob(self, value: Tensor) -> Tensor:
        return sum_event(self.log_prob_per_dim(value), self.event_ndim)


class CategoricalPixels(NamedTuple):
    """Independent 8-bit pixels: arbitrary probabilities of K bins of grey levels; the levels of a bin are equally probable.

    Args:
        logits: The logits of the bins, ``(*S, B, K, *event)``; K divides 256.
        event_ndim: The number of dimensions of an example.
    """

    logits: Tensor
    event_ndim: int = 3

    @property
    def width(self) -> int:
        """The number of grey levels in a bin."""
        return NUM_LEVELS // self.logits.shape[-self.event_ndim - 1]

    @property
    def mean(self) -> Tensor:
        num, width = self.logits.shape[-self.event_ndim - 1], self.width
        centres = LEVEL * (torch.arange(num, device=self.logits.device, dtype=self.logits.dtype) * width + (width - 1) / 2)
        weights = torch.softmax(self.logits, -self.event_ndim - 1)
        return (weights * centres.view(-1, *[1] * self.event_ndim)).sum(-self.event_ndim - 1)

    def rsample(self, noise: Tensor) -> Tensor:
        """Map uniform noise to grey levels: it selects a bin, and the remainder selects a level in the bin."""
        chosen, left = choose(self.logits, noise, -self.event_ndim - 1)
        within = (left * self.width).floor().clamp(max=self.width - 1)
        return (LEVEL * (chosen * self.width + within)).squeeze(-self.event_ndim - 1).to(self.logits.dtype)

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        dim = -self.event_ndim - 1
        level = (value / LEVEL).round().long()
        bins = (level // self.width).unsqueeze(dim)
        shape = [*self.logits.shape]
        shape[dim] = 1
        chosen = torch.log_softmax(self.logits, dim).gather(dim, bins.expand(shape))
        return chosen.squeeze(dim) - math.log(self.width)

    def log_prob(self, value: Tensor) -> Tensor:
        return sum_event(self.log_prob_per_dim(value), self.event_ndim)


def choose(logits: Tensor, noise: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return the index along ``dim`` that uniform noise selects, and the remaining noise, uniform and independent of it."""
    weights = torch.softmax(logits.detach(), dim)
    bounds, noise = weights.cumsum(dim), noise.unsqueeze(dim)
    chosen = (noise >= bounds.narrow(dim, 0, bounds.shape[dim] - 1)).sum(dim, keepdim=True)
    weight, bound = (
        each.expand(*noise.shape[:dim], -1, *noise.shape[dim:][1:]).gather(dim, chosen) for each in (weights, bounds)
    )
    return chosen, (1 - (bound - noise) / weight).clamp(0, 1)
