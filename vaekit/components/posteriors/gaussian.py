"""The diagonal Gaussian posterior."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from vaekit.distributions import DiagonalGaussian, at_least_float32
from vaekit.interfaces import Capability, Posterior, Shape
from vaekit.roles import posteriors


@posteriors("gaussian")
class Gaussian(Posterior):
    """Diagonal Gaussian ``q(z|x) = N(mu(x), diag exp(logvar(x)))``, the posterior of the VAE paper.

    The encoder outputs ``(2, D)``: ``mu`` and ``logvar``, the latter clamped to [-m, m] so that ``exp(logvar)`` cannot overflow.

    Args:
        max_logvar: Bound m of the log-variance.

    References:
        Kingma and Welling (2014), "Auto-Encoding Variational Bayes", ICLR, arXiv:1312.6114, equation 9.
    """

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB, Capability.FACTORISED})

    def __init__(self, latent_dim: int, *, max_logvar: Annotated[float, Field(gt=0, le=60)] = 20.0) -> None:
        super().__init__(latent_dim)
        self.max_logvar = max_logvar

    @property
    def param_shape(self) -> Shape:
        return (2, self.latent_dim)

    def forward(self, params: Tensor, model: Any = None) -> DiagonalGaussian:
        del model
        mu, raw = at_least_float32(params).unbind(-2)
        return DiagonalGaussian(mu, raw.clamp(-self.max_logvar, self.max_logvar))
