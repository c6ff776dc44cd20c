"""The Gaussian likelihood whose variance is the mean squared error."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from vaekit.distributions import Density, GaussianPixels
from vaekit.interfaces import Likelihood, Shape
from vaekit.nn.heads import MIN_SCALE, Link, mean_image
from vaekit.roles import likelihoods
from vaekit.trace import Trace


@likelihoods("optimal_gaussian")
class OptimalGaussian(Likelihood):
    """Gaussian pixels with the maximum-likelihood σ: σ² is the mean squared error, without a gradient or learning rate.

    In the paper, σ² is computed from the batch itself. Here it is a moving average over training batches, at least one squared
    grey level, (1/256)², so that the score of an example does not depend on its batch and the bound holds on new data. It
    starts at the error of the untrained model. Once the average has converged, the gradient is the paper's.

    Args:
        decay: Decay of the moving average per step; 0 for the error of the previous batch.
        link: Function that maps the decoder's output to the mean image.

    References:
        Rybkin et al. (2021), "Simple and Effective VAE Training with Calibrated Decoders", ICML, arXiv:2006.13202.
    """

    factorised: ClassVar[bool] = True
    learned = ("variance",)
    variance: Tensor

    def __init__(self, data_shape: Shape, *, decay: Annotated[float, Field(ge=0, lt=1)] = 0.9, link: Link = "sigmoid") -> None:
        super().__init__(data_shape)
        self.decay, self.link = decay, link
        self.support = "unit" if link == "sigmoid" else "real"
        self.register_buffer("variance", torch.full((1,), 0.1))

    def forward(self, params: Tensor) -> GaussianPixels:
        return GaussianPixels(mean_image(params, self.link), 0.5 * torch.log(self.variance), len(self.data_shape))

    def statistics(self, p: Density, x: Tensor) -> Tensor:
        """Return the sum of squared errors of each example, averaged over samples, and its number of observed values."""
        known = ~x.isnan()
        errors = torch.where(known, x.nan_to_num(0.0) - p.mean, 0.0).square()
        total: Tensor = errors.flatten(-len(self.data_shape)).sum(-1)
        total = total if total.ndim == 1 else total.flatten(0, -2).mean(0)
        return torch.stack([total, known.flatten(1).sum(-1).to(total.dtype)], -1)

    def next_state(self, trace: Trace) -> dict[str, Tensor]:
        error = self._error(trace)
        return {"variance": self.decay * self.variance + (1 - self.decay) * error}

    def initial_state(self, trace: Trace) -> dict[str, Tensor]:
        return {"variance": self._error(trace)}

    def _error(self, trace: Trace) -> Tensor:
        statistics = trace.statistics
        assert statistics is not None  # defined above
        total, known = statistics.sum(0)
        error: Tensor = (total / known.clamp(min=1)).clamp(min=MIN_SCALE**2)
        return error.to(self.variance.dtype).view(1)
