"""The full-covariance Gaussian posterior."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from vaekit.distributions import FullGaussian, at_least_float32
from vaekit.interfaces import Capability, Posterior, Shape
from vaekit.roles import posteriors


@posteriors("full_gaussian")
class FullGaussianPosterior(Posterior):
    """Full-covariance Gaussian ``q(z|x) = N(mu(x), L(x) L(x)^T)``: latents may be correlated given the example.

    The encoder outputs ``mu``, a log-variance of each latent given those before it, and the ``D (D - 1) / 2`` elements of L
    below the diagonal, in units of the standard deviation of their row. The KL to a standard normal is exact. The number of
    outputs is quadratic in D, so grids are not supported.

    Args:
        max_logvar: Bound of the log-variances.

    References:
        Kingma and Welling (2019), "An Introduction to Variational Autoencoders", Foundations and Trends in Machine Learning,
            arXiv:1906.02691, section 2.5.1.
    """

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})
    places: Tensor

    def __init__(self, latent_dim: int, *, max_logvar: Annotated[float, Field(gt=0, le=60)] = 20.0) -> None:
        super().__init__(latent_dim)
        self.max_logvar = max_logvar
        row, column = torch.arange(latent_dim)[:, None], torch.arange(latent_dim)
        below = 2 * latent_dim + row * (row - 1) // 2 + column
        self.register_buffer("places", torch.where(column < row, below, 0), persistent=False)

    @property
    def param_shape(self) -> Shape:
        return (self.latent_dim * (self.latent_dim + 3) // 2,)

    def forward(self, params: Tensor, model: Any = None) -> FullGaussian:
        del model
        params = at_least_float32(params)
        mu, raw = params[..., : 2 * self.latent_dim].chunk(2, -1)
        lower = params[..., self.places].tril(-1)
        eye = torch.eye(self.latent_dim, device=lower.device, dtype=lower.dtype)
        return FullGaussian(mu, raw.clamp(-self.max_logvar, self.max_logvar), lower + eye)
