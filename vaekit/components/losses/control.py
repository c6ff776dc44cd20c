"""ControlVAE: a controller that holds the KL at a set point."""

from __future__ import annotations

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from vaekit.components.losses._controllers import ControlledKL
from vaekit.errors import UsageError
from vaekit.nn.schedules import NonNegativeScheduled, scheduled
from vaekit.roles import losses
from vaekit.trace import Trace


@losses("control")
class Control(ControlledKL):
    """``β KL``, where a controller adjusts β after each step to hold the KL at a set point: ControlVAE.

    ``β = β_min + Kp sigmoid(KL - target) + Ki sum (KL - target)``: a PI controller. The sum is clamped to the bounds of β to
    prevent windup while the KL is out of reach. With a growing set point, such as ``linear(0, 25, 20)``, factors of variation
    are encoded one by one, as with `capacity`. Small gains act slowly: per step, β changes by `ki` times the error in nats. β
    is logged; validation uses the latest value.

    Args:
        kl: Set point of the KL, in nats per example.
        kp: Gain Kp of the error.
        ki: Gain Ki of the sum of errors, per step.
        beta_min: Smallest β.
        beta_max: Largest β.

    References:
        Shao et al. (2020), "ControlVAE: Controllable Variational Autoencoder", ICML, arXiv:2004.05988, algorithm 1.
    """

    learned = ("beta", "integral")
    integral: Tensor

    def __init__(
        self,
        *,
        kl: NonNegativeScheduled = 20.0,
        kp: NonNegativeFloat = 0.01,
        ki: PositiveFloat = 0.001,
        beta_min: NonNegativeFloat = 0.0,
        beta_max: PositiveFloat = 100.0,
    ) -> None:
        super().__init__()
        if beta_min >= beta_max:
            raise UsageError("invalid bounds of β", given=f"{beta_min} and {beta_max}", expected="beta_min < beta_max")
        self.kl, self.kp, self.ki = scheduled(kl), scheduled(kp), scheduled(ki)
        self.beta_min, self.beta_max = scheduled(beta_min), scheduled(beta_max)
        self.register_buffer("beta", torch.tensor(beta_min + 0.5 * kp))
        self.register_buffer("integral", torch.zeros(()))

    def next_state(self, trace: Trace) -> dict[str, Tensor]:
        kl, epoch = trace.kl, trace.epoch
        assert kl is not None  # guaranteed by `requires`, which assembly checks
        excess, low, high = kl.mean() - self.kl(epoch), self.beta_min(epoch), self.beta_max(epoch)
        integral = torch.minimum((self.integral + self.ki(epoch) * excess).clamp(min=0), high - low)
        beta = torch.minimum(low + self.kp(epoch) * torch.sigmoid(excess) + integral, high)
        return {"beta": beta, "integral": integral}
