"""Flow matching: the velocity of straight paths from noise to codes, learned by regression."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor

from vaekit.distributions.rectified import VelocityFlow
from vaekit.interfaces import Aim, Capability, Loss, Slot
from vaekit.roles import losses
from vaekit.trace import Trace, mean_over_samples


@losses("flow_matching")
class FlowMatching(Loss):
    """Squared error of the velocity ``u_1 - u_0`` on straight paths from noise u_0 to standardised codes u_1.

    ``|v((1 - t) u_0 + t u_1, t) - (u_1 - u_0)|^2``, summed over latents, with one random time t per code. It fits the prior
    `rectified_flow` to the codes and trains nothing else. It is not a likelihood, nor is it in nats: it measures how well
    velocities are predicted, and its minimum depends on the codes and is not 0.

    Args:
        times: Distribution of the times; logit_normal favours the middle, where velocities are hardest to predict.

    References:
        Lipman et al. (2023), "Flow Matching for Generative Modeling", ICLR, arXiv:2210.02747, equation 23 (with a width of 0).
        Esser et al. (2024), "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", ICML, arXiv:2403.03206,
            section 3.1 (logit-normal times).
    """

    covers: ClassVar[frozenset[Slot]] = frozenset({"divergence"})
    requires_of_prior: ClassVar[frozenset[Capability]] = frozenset({Capability.VELOCITY})
    samples = None

    def __init__(self, *, times: Literal["uniform", "logit_normal"] = "uniform") -> None:
        super().__init__()
        self.logit_normal = times == "logit_normal"

    def aims(self) -> dict[str, Aim]:
        return {"flow_matching": Aim(moves=("prior",))}

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor, model: Any) -> Tensor:
        """Draw standard normal noise ``(num, D + 1)`` for the start of each path and its time."""
        return torch.randn(num, model.latent_dim + 1, generator=generator, device=like.device, dtype=like.dtype)

    def forward(self, trace: Trace) -> Tensor:
        p, noise = cast("VelocityFlow", trace.site.p), self.noise_of(trace)
        start, end = noise[:, :-1], p.standardised(trace.z)
        time = torch.sigmoid(noise[:, -1]) if self.logit_normal else torch.special.ndtr(noise[:, -1])
        velocity = p.velocity(torch.lerp(start.expand_as(end), end, time[:, None].expand_as(end)), time)
        return mean_over_samples((velocity - (end - start)).square().sum(-1))
