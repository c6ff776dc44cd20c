"""Rectified flow: the distribution at the end of paths from noise along a velocity field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn
from torch.func import functional_call

from vaekit.distributions.density import at_least_float32


class VelocityFlow(NamedTuple):
    """The end points at t = 1 of paths ``du/dt = v(u, t)`` from standard normal noise at t = 0, as codes ``z = mu + scale u``.

    It has no density: that of a sample would be an integral of the divergence of v along its path.

    Args:
        network: The structure of v, which maps u ``(N, D)``, t ``(N,)`` and c ``(N, E)``, or None, to velocities ``(N, D)``.
        weights: Its weights by name.
        mu: The means of the codes, ``(D,)``.
        scale: Their standard deviations, ``(D,)``.
        c: The condition of each code of a batch, ``(B, E)``, or None.
        steps: The number of integration steps.
        heun: Whether to use Heun's method, which evaluates two velocities per step, instead of Euler's.

    References:
        Liu et al. (2023), "Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow", ICLR,
            arXiv:2209.03003, equations 1 and 2.
    """

    network: nn.Module
    weights: Mapping[str, Tensor]
    mu: Tensor
    scale: Tensor
    c: Tensor | None = None
    steps: int = 20
    heun: bool = True

    @property
    def mean(self) -> Tensor:
        """The mean of the codes that it was fitted to, ``(D,)``; its own mean has no closed form."""
        return self.mu

    def standardised(self, value: Tensor) -> Tensor:
        """Standardise codes ``(*S, B, D)`` to zero mean and unit variance, the end points of paths."""
        return (value - self.mu) / self.scale

    def velocity(self, place: Tensor, time: Tensor) -> Tensor:
        """Return the velocities ``(*S, B, D)`` at positions ``(*S, B, D)`` and times ``(*S, B)``."""
        shape = place.shape
        c = None if self.c is None else self.c.expand(*shape[:-1], -1).flatten(0, -2)
        inputs = place.flatten(0, -2), time.expand(shape[:-1]).flatten(), c
        velocity: Tensor = functional_call(self.network, dict(self.weights), inputs)
        return at_least_float32(velocity).view(shape)

    def rsample(self, noise: Tensor) -> Tensor:
        """Map standard normal noise ``(*S, B, D)``, the start of paths, to the codes at their ends."""
        place, width = noise, 1 / self.steps
        for number in range(self.steps):
            now = noise.new_full(noise.shape[:-1], number * width)
            velocity = self.velocity(place, now)
            if self.heun:
                velocity = (velocity + self.velocity(place + width * velocity, now + width)) / 2
            place = place + width * velocity
        return self.mu + self.scale * place
