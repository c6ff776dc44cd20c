"""The distribution at the end of paths that follow a velocity field, which starts from noise: a rectified flow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn
from torch.func import functional_call

from vaekit.distributions.density import at_least_float32


class VelocityFlow(NamedTuple):
    """Where paths ``du/dt = v(u, t)`` from standard normal noise at t = 0 arrive at t = 1, as codes ``z = mu + scale u``.

    It has no density: that of a draw would be an integral of the divergence of v along its path.

    Args:
        network: The form of v, which maps u ``(N, D)``, t ``(N,)`` and c ``(N, E)``, or None, to velocities ``(N, D)``.
        weights: Its weights by name.
        mu: The means of the codes, ``(D,)``.
        scale: Their standard deviations, ``(D,)``.
        c: The condition of each code of a batch, ``(B, E)``, or None.
        steps: The number of steps in which paths are followed.
        heun: Whether steps are Heun's, which take two velocities each, instead of Euler's.

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
        """The mean of the codes that it was fitted to, ``(D,)``; its own has no closed form."""
        return self.mu

    def standardised(self, value: Tensor) -> Tensor:
        """Map codes ``(*S, B, D)`` to the ends of paths, whose numbers have a mean of 0 and a variance of 1."""
        return (value - self.mu) / self.scale

    def velocity(self, place: Tensor, time: Tensor) -> Tensor:
        """Return the velocities ``(*S, B, D)`` at places ``(*S, B, D)`` and times ``(*S, B)``."""
        shape = place.shape
        c = None if self.c is None else self.c.expand(*shape[:-1], -1).flatten(0, -2)
        inputs = place.flatten(0, -2), time.expand(shape[:-1]).flatten(), c
        velocity: Tensor = functional_call(self.network, dict(self.weights), inputs)
        return at_least_float32(velocity).view(shape)

    def rsample(self, noise: Tensor) -> Tensor:
        """Map standard normal noise ``(*S, B, D)`` to the codes at the ends of the paths that it begins."""
        place, width = noise, 1 / self.steps
        for number in range(self.steps):
            now = noise.new_full(noise.shape[:-1], number * width)
            velocity = self.velocity(place, now)
            if self.heun:
                velocity = (velocity + self.velocity(place + width * velocity, now + width)) / 2
            place = place + width * velocity
        return self.mu + self.scale * place
