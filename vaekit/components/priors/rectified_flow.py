"""A rectified flow as the prior."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from vaekit.components.priors._velocity import Velocity
from vaekit.distributions.rectified import VelocityFlow
from vaekit.interfaces import Capability, Prior, Shape
from vaekit.roles import priors
from vaekit.schema import Few
from vaekit.trace import Trace

LEAST_SCALE = 1e-3
"""Lower bound of a latent's standard deviation, as a fraction of that of all latents."""


@priors("rectified_flow")
class RectifiedFlow(Prior):
    """A rectified flow: a network moves noise to codes along nearly straight paths; for sampling, without a density.

    It is fitted to the codes of a trained model by the loss `flow_matching`: ``vaekit fit-prior RUN --prior rectified_flow``.
    Without a density, the model has no KL, no ELBO and no log p(x). It starts as a Gaussian with the means and standard
    deviations of the codes, measured once: in a grid, per channel. Given a condition, it is p(z|c).

    The network, for vectors or grids, is implemented here: a few residual blocks suffice for codes, can be stacked, compiled
    and replayed as CUDA graphs, and need no further library.

    Args:
        width: Width of the network; default: 256 for vectors, 64 for grids.
        depth: Number of residual blocks.
        steps: Number of integration steps for sampling.
        solver: Integration method; heun evaluates two velocities per step and is more accurate for the same number of
            evaluations.

    References:
        Liu et al. (2023), "Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow", ICLR,
            arXiv:2209.03003.
        Lipman et al. (2023), "Flow Matching for Generative Modeling", ICLR, arXiv:2210.02747.
    """

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.VELOCITY})
    fitted_by = "flow_matching"
    num_initial = 10_000
    mu: Tensor
    scale: Tensor

    def __init__(
        self,
        latent_dim: int,
        latent_shape: Shape,
        condition_size: int,
        *,
        width: Few | None = None,
        depth: Few = 4,
        steps: Few = 20,
        solver: Literal["heun", "euler"] = "heun",
    ) -> None:
        super().__init__(latent_dim)
        self.latent_shape, self.steps, self.heun = tuple(latent_shape), steps, solver == "heun"
        width = width or (256 if len(latent_shape) == 1 else 64)
        self.velocity = Velocity(latent_shape, condition_size, width, depth)
        self.register_buffer("mu", torch.zeros(latent_dim))
        self.register_buffer("scale", torch.ones(latent_dim))

    def forward(self, model: Any = None, c: Tensor | None = None) -> VelocityFlow:
        del model
        weights = dict(self.velocity.named_parameters())
        return VelocityFlow(self.velocity, weights, self.mu, self.scale, c, self.steps, self.heun)

    def initial_state(self, trace: Trace) -> dict[str, Tensor]:
        codes = trace.z.flatten(0, -2).unflatten(-1, self.latent_shape)
        over = [0, *range(2, codes.ndim)]
        deviation = codes.std(over, correction=0, keepdim=True)
        least = LEAST_SCALE * codes.std(correction=0).clamp(min=torch.finfo(codes.dtype).tiny ** 0.5)
        state = {"mu": codes.mean(over, keepdim=True), "scale": torch.maximum(deviation, least)}
        return {name: value.expand(1, *self.latent_shape).flatten().to(self.mu) for name, value in state.items()}
