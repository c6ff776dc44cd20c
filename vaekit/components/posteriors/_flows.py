"""Base class of posteriors that are normalising flows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from vaekit.distributions import DiagonalGaussian, at_least_float32
from vaekit.distributions.flows import Flow, Step
from vaekit.interfaces import Capability, Posterior, Shape

MaxLogvar = Annotated[float, Field(gt=0, le=60)]


class FlowPosterior(Posterior):
    """A diagonal Gaussian whose samples pass through invertible steps.

    The encoder outputs a vector with ``mu``, ``logvar`` and the parameters of the steps. Grids are not supported.

    Args:
        latent_dim: The number of latent dimensions D.
        sizes: The numbers of parameters of the steps, in order.
        max_logvar: The bound of the log-variance of the Gaussian.
    """

    provides: ClassVar[frozenset[str]] = frozenset({Capability.LOG_PROB_OF_DRAWS})

    def __init__(self, latent_dim: int, sizes: Sequence[int], max_logvar: float) -> None:
        super().__init__(latent_dim)
        self.sizes, self.max_logvar = (latent_dim, latent_dim, *sizes), max_logvar

    @property
    def param_shape(self) -> Shape:
        return (sum(self.sizes),)

    def forward(self, params: Tensor, model: Any = None) -> Flow:
        del model
        mu, raw, *others = at_least_float32(params).split(self.sizes, -1)
        return Flow(DiagonalGaussian(mu, raw.clamp(-self.max_logvar, self.max_logvar)), self.steps(others))

    def steps(self, params: Sequence[Tensor]) -> tuple[Step, ...]:
        """Return the steps for a batch.

        Args:
            params: The encoder outputs for each step, ``(B, size)``.
        """
        raise NotImplementedError
