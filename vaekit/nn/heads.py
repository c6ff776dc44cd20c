"""Heads of likelihoods: from the decoder's output to a mean and a scale."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaekit.distributions import at_least_float32
from vaekit.errors import UsageError

Link = Literal["sigmoid", "identity"]

MIN_SCALE = 1.0 / 256.0
"""Smallest learned scale: one grey level. Below it, a density over 8-bit pixels grows without bound."""

MAX_LOG_RATE = 20.0
"""Bound of the log of a mean count, 5e8, so that no decoder's output makes it infinite."""

SPEEDUP = 10.0
"""How many times faster a learned log scale moves than a weight.

Adam moves both by about the learning rate per step, and a log scale has further to go. After 126 steps on 303 colour pictures
of 64×64, the bound on held-out pictures was 1,719 nats at a speed-up of 1, 3,255 at 5, 3,601 at 10 and 3,700 at 20 (one seed).
"""


def mean_image(params: Tensor, link: Link) -> Tensor:
    """Map the decoder's output to a mean image: into [0, 1] by a sigmoid, or unchanged."""
    params = at_least_float32(params)
    return torch.sigmoid(params) if link == "sigmoid" else params


def widened_by(shape: tuple[int, ...], times: int) -> tuple[int, ...]:
    """Return the shape of ``times`` numbers for each number of an example, as that many times the channels."""
    return (times * shape[0], *shape[1:])


def fields_of(params: Tensor, ndim: int, *sizes: int) -> Tensor:
    """Split the channels of the decoder's output ``(*S, B, k * C, ...)`` into ``(*S, B, *sizes, C, ...)``; k is their product.

    Args:
        params: The output, whose last ``ndim`` dimensions are those of an example, with k times its channels.
        ndim: The number of dimensions of an example.
        sizes: The sizes of the new dimensions.
    """
    split: Tensor = at_least_float32(params).unflatten(-ndim, (*sizes, params.shape[-ndim] // math.prod(sizes)))
    return split


def log_counts(x: Tensor) -> Tensor:
    """Return ``log(1 + x)`` of counts, which an encoder can see beside each other: counts of one feature differ by magnitudes."""
    return torch.log1p(x.clamp(min=0))


def softly_above(value: Tensor, low: float) -> Tensor:
    """Bound a tensor from below by a smooth function; a gradient leads back from anywhere, unlike that of a clamp."""
    return low + F.softplus(value - low)


def softly_below(value: Tensor, high: float) -> Tensor:
    """Bound a tensor from above by a smooth function; a gradient leads back from anywhere, unlike that of a clamp."""
    return high - F.softplus(high - value)


class LogScale(nn.Module):
    """A log scale shared by all pixels: fixed, or learned and bounded below by one grey level.

    A learned log scale is `SPEEDUP` times its parameter.

    Raises:
        UsageError: A learned scale starts at its bound or below.
    """

    value: Tensor

    def __init__(self, scale: float, learned: bool) -> None:
        super().__init__()
        if learned and scale <= MIN_SCALE:
            raise UsageError(
                "a learned scale starts at its lower bound or below",
                given=scale,
                expected=f"more than 1/256 = {MIN_SCALE:.4f}, one grey level",
                remedy="start from a larger scale, or fix it: --likelihood.learned false",
            )
        log_scale = torch.tensor([math.log(scale)], device="cpu")  # arithmetic on "meta" would load torch's compiler
        if learned:
            self.value = nn.Parameter(log_scale / SPEEDUP)
        else:
            self.register_buffer("value", log_scale, persistent=False)
        self.learned = learned

    def forward(self) -> Tensor:
        return at_least(SPEEDUP * self.value, math.log(MIN_SCALE)) if self.learned else self.value


def at_least(value: Tensor, bound: float) -> Tensor:
    """Clamp a tensor from below, with a gradient that leads back above the bound; that of `torch.clamp` is 0 there."""
    bounded: Tensor = _AtLeast.apply(value, bound)
    return bounded


class _AtLeast(torch.autograd.Function):
    """See `at_least`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, bound: float) -> Tensor:
        return value.clamp(min=bound)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.bound = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (value,), (grad,) = ctx.saved_tensors, grads
        return grad * ((value > ctx.bound) | (grad < 0)), None
