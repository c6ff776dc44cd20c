"""Residual networks for velocity fields, conditioned on the time and a condition in each block."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaekit.interfaces import Shape
from vaekit.nn.layers import CONVOLUTIONS, initialize_weights, normalization_layer, sides_of

NUM_FREQUENCIES, MAX_FREQUENCY = 16, 100.0
"""Number of frequencies of the time embedding, and the highest, in radians from t = 0 to t = 1."""
SMALL_INIT = 1e-3
"""Factor for the initial weights of layers whose outputs should start near 0."""


def time_embedding(time: Tensor) -> Tensor:
    """Return the sinusoidal embedding of times ``(N,)`` in [0, 1], ``(N, 2 NUM_FREQUENCIES)``."""
    exponents = torch.linspace(0, math.log(MAX_FREQUENCY), NUM_FREQUENCIES, device=time.device, dtype=time.dtype)
    angles = time[:, None] * torch.exp(exponents)
    return torch.cat([torch.sin(angles), torch.cos(angles)], 1)


def linear_or_convolution(num_sides: int, in_width: int, out_width: int) -> nn.Module:
    """Return a linear layer for vectors, or a convolution with kernels of size 3 for grids of ``num_sides`` dimensions."""
    if num_sides == 0:
        return nn.Linear(in_width, out_width)
    return CONVOLUTIONS[num_sides](in_width, out_width, 3, padding=1)


class Block(nn.Module):
    """A residual block, ``h + g(a(c) f(h) + b(c))``, with a scale and a shift per channel that depend on a context c."""

    def __init__(self, num_sides: int, width: int) -> None:
        super().__init__()
        self.normal = normalization_layer("layer", width)
        self.first, self.second = linear_or_convolution(num_sides, width, width), linear_or_convolution(num_sides, width, width)
        self.modulation = nn.Linear(width, 2 * width)

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        scale, shift = (each.view(*each.shape, *(1 for _ in h.shape[2:])) for each in self.modulation(context).chunk(2, 1))
        output: Tensor = h + self.second(F.silu(self.first(self.normal(h)) * (1 + scale) + shift))
        return output


class Velocity(nn.Module):
    """A velocity field over latents: fully connected for vectors, convolutional for grids.

    It is initialised near 0, so that paths hardly move at first.

    Args:
        latent_shape: The shape of the latents, ``(D,)`` or ``(C, *sides)``.
        condition_size: The size of the condition; 0 for none.
        width: The number of features.
        depth: The number of residual blocks.
    """

    def __init__(self, latent_shape: Shape, condition_size: int, width: int, depth: int) -> None:
        super().__init__()
        num_sides = len(sides_of(latent_shape, "prior 'rectified_flow'")) if len(latent_shape) > 1 else 0
        self.latent_shape = tuple(latent_shape)
        self.time = nn.Sequential(nn.Linear(2 * NUM_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = nn.Linear(condition_size, width, bias=False) if condition_size else None
        self.start = linear_or_convolution(num_sides, latent_shape[0], width)
        self.blocks = nn.ModuleList(Block(num_sides, width) for _ in range(depth))
        self.normal, self.end = normalization_layer("layer", width), linear_or_convolution(num_sides, width, latent_shape[0])
        initialize_weights(self)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith(("modulation.weight", "end.weight")):
                    parameter.mul_(SMALL_INIT)

    def forward(self, place: Tensor, time: Tensor, c: Tensor | None = None) -> Tensor:
        """Return the velocities ``(N, D)`` at positions ``(N, D)`` and times ``(N,)``, given conditions ``(N, E)`` or None."""
        context = self.time(time_embedding(time))
        if self.condition is not None and c is not None:
            context = context + self.condition(c)
        context, h = F.silu(context), self.start(place.unflatten(-1, self.latent_shape))
        for block in self.blocks:
            h = block(h, context)
        velocity: Tensor = self.end(F.silu(self.normal(h))).flatten(1)
        return velocity
