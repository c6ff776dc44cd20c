"""The wrapped normal posterior on the Poincaré ball."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from vaekit.components.posteriors._priors import prior_density
from vaekit.distributions import at_least_float32
from vaekit.distributions.poincare import WrappedNormal, exp_map, squared
from vaekit.interfaces import Capability, Posterior, Shape
from vaekit.roles import posteriors


@posteriors("poincare")
class Poincare(Posterior):
    """A wrapped normal on the Poincaré ball: the posterior of a Poincaré VAE, for hierarchical data.

    The encoder outputs ``(2, D)``: a vector in the tangent space at 0, which the exponential map takes to the centre ``mu``,
    and log-variances in the tangent space at ``mu``. The decoder takes points of the ball as plain vectors; there is no
    gyroplane layer. The prior ``poincare`` sets the curvature of the space. The KL is estimated from samples.

    Args:
        max_radius: Smooth bound of the distance of ``mu`` from 0, in units of ``c^(-1/2)``: in float32, points more than 12
            units away cannot be distinguished from the boundary.
        max_logvar: Bound of the log-variance.

    References:
        Mathieu et al. (2019), "Continuous Hierarchical Representations with Poincaré Variational Auto-Encoders", NeurIPS,
            arXiv:1901.06033, section 3.
        Nagano et al. (2019), "A Wrapped Normal Distribution on Hyperbolic Space for Gradient-Based Learning", ICML,
            arXiv:1902.02992.
    """

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})
    space = "poincare"
    default_prior = "poincare"

    def __init__(
        self, latent_dim: int, *, max_radius: PositiveFloat = 6.0, max_logvar: Annotated[float, Field(gt=0, le=60)] = 20.0
    ) -> None:
        super().__init__(latent_dim)
        self.max_radius, self.max_logvar = max_radius, max_logvar

    @property
    def param_shape(self) -> Shape:
        return (2, self.latent_dim)

    def forward(self, params: Tensor, model: Any = None) -> WrappedNormal:
        p = prior_density("poincare", model, WrappedNormal, "the curvature")
        tangent, raw = at_least_float32(params).unbind(-2)
        bounded = tangent * torch.rsqrt(1 + p.c * squared(tangent) / self.max_radius**2)
        mu = exp_map(torch.zeros_like(bounded), bounded, p.c)
        return WrappedNormal(mu, 0.5 * raw.clamp(-self.max_logvar, self.max_logvar), p.c)
