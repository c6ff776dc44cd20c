"""The posterior of radial flows."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vaekit.components.posteriors._flows import FlowPosterior, MaxLogvar
from vaekit.distributions.flows import RadialStep
from vaekit.roles import posteriors
from vaekit.schema import Few


@posteriors("radial")
class Radial(FlowPosterior):
    """A Gaussian whose samples pass through radial flows with parameters from the encoder.

    Each flow ``z + β (z - z_0) / (α + |z - z_0|)`` contracts or expands the density around a point, equally in all directions.
    The KL is estimated from samples.

    Args:
        transforms: Number of radial flows.
        max_logvar: Bound of the log-variance of the Gaussian.

    References:
        Rezende and Mohamed (2015), "Variational Inference with Normalizing Flows", ICML, arXiv:1505.05770, section 4.
    """

    def __init__(self, latent_dim: int, *, transforms: Few = 8, max_logvar: MaxLogvar = 20.0) -> None:
        super().__init__(latent_dim, transforms * (latent_dim, 1, 1), max_logvar)

    def steps(self, params: Sequence[Tensor]) -> tuple[RadialStep, ...]:
        return tuple(RadialStep(*each) for each in zip(params[::3], params[1::3], params[2::3], strict=True))
