"""The posterior of planar flows."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vaekit.components.posteriors._flows import FlowPosterior, MaxLogvar
from vaekit.distributions.flows import PlanarStep
from vaekit.roles import posteriors
from vaekit.schema import Few


@posteriors("planar")
class Planar(FlowPosterior):
    """A Gaussian whose samples pass through planar flows with parameters from the encoder, so that it can bend or split.

    Each flow ``z + u tanh(w·z + b)`` acts along one direction, so many latents need many flows, or `iaf`. The KL is estimated
    from samples.

    Args:
        transforms: Number of planar flows.
        max_logvar: Bound of the log-variance of the Gaussian.

    References:
        Rezende and Mohamed (2015), "Variational Inference with Normalizing Flows", ICML, arXiv:1505.05770, section 4.
    """

    def __init__(self, latent_dim: int, *, transforms: Few = 8, max_logvar: MaxLogvar = 20.0) -> None:
        super().__init__(latent_dim, transforms * (latent_dim, latent_dim, 1), max_logvar)

    def steps(self, params: Sequence[Tensor]) -> tuple[PlanarStep, ...]:
        return tuple(PlanarStep(*each) for each in zip(params[::3], params[1::3], params[2::3], strict=True))
