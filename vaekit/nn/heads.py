"""Likelihood heads: from the decoder's output to a mean and a scale."""

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
"""Minimum learned scale: one grey level. Below it, a density over 8-bit pixels grows without bound."""

MAX_LOG_RATE = 20.0
"""Upper bound of the log of a mean count (5e8), so that it cannot overflow."""

SPEEDUP = 10.0
"""The learning-rate multiplier of a learned log scale.

Adam moves weights and log scales by about the learning rate per step, but a log scale has further to go. After 126 steps on 303
colour pictures of 64×64, the bound on held-out pictures was 1,719 nats with a multiplier of 1, 3,255 with 5, 3,601 with 10 and
3,700 with 20 (one seed).
"""


def mean_image(params: Tensor, link: Link) -> Tensor:
    """Map the decoder's output to a mean image, by a sigmoid or unchanged."""
    params = at_least_float32(params)
    return torch.sigmoid(params) if link == "sigmoid" else params


def multiply_channels(shape: tuple[int, ...], times: int) -> tuple[int, ...]:
    """Return the shape with ``times`` as many channels, for ``times`` parameters per element of an example."""
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
    """Return ``log(1 + x)`` of counts, which may span orders of magnitude, as an encoder's input."""
    return torch.log1p(x.clamp(min=0))


def soft_lower_bound(value: Tensor, low: float) -> Tensor:
    """Bound a tensor from below smoothly; unlike a clamp, the gradient never vanishes."""
    return low + F.softplus(value - low)


def soft_upper_bound(value: Tensor, high: float) -> Tensor:
    """Bound a tensor from above smoothly; unlike a clamp, the gradient never vanishes."""
    return high - F.softplus(high - value)


class LogScale(nn.Module):
    """A log scale shared by all pixels: fixed, or learned and bounded below by one grey level.

    A learned log scale is `SPEEDUP` times its parameter.

    Raises:
        UsageError: The initial value of a learned scale is not above its bound.
    """

    value: Tensor

    def __init__(self, scale: float, learned: bool) -> None:
        super().__init__()
        if learned and scale <= MIN_SCALE:
            raise UsageError(
                "the initial value of a learned scale is not above its lower bound",
                given=scale,
                expected=f"more than 1/256 = {MIN_SCALE:.4f}, one grey level",
                remedy="use a larger initial scale, or fix it: --likelihood.learned false",
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
    """Clamp a tensor from below; unlike that of `torch.clamp`, the gradient below the bound can increase the value."""
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
