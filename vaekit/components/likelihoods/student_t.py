"""Student's t likelihood: robust to outliers."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from vaekit.distributions import StudentTPixels
from vaekit.interfaces import Likelihood, Shape
from vaekit.nn.heads import (
    MIN_SCALE,
    SPEEDUP,
    Link,
    fields_of,
    mean_image,
    multiply_channels,
    soft_lower_bound,
    soft_upper_bound,
)
from vaekit.roles import likelihoods

MAX_DOF = 1000.0
"""Upper bound of the learned degrees of freedom: within three standard deviations, a Gaussian up to 0.02 nats."""


@likelihoods("student_t")
class StudentT(Likelihood):
    """Student's t distribution: the cost of an outlier grows with the log of its distance, so it hardly affects the model.

    The decoder outputs a location and a log scale for each value. The degrees of freedom ν are shared and learned by default:
    low with outliers, high without. In the paper, the decoder also outputs ν for each value. Bits per dimension are not
    available, since they need the distribution function.

    Args:
        dof: Degrees of freedom ν, above 1; the initial value if learned.
        learned: Whether to learn ν.
        scale: Scale for a decoder output of 0, in units of the pixel range; bounded below by one grey level, 1/256.
        link: Function that maps the decoder's output to the mean image.

    References:
        Takahashi et al. (2018), "Student-t Variational Autoencoder for Robust Density Estimation", IJCAI.
    """

    factorised: ClassVar[bool] = True
    log_excess: Tensor

    def __init__(
        self,
        data_shape: Shape,
        *,
        dof: Annotated[float, Field(gt=1, le=MAX_DOF)] = 5.0,
        learned: bool = True,
        scale: PositiveFloat = 0.3,
        link: Link = "sigmoid",
    ) -> None:
        super().__init__(data_shape)
        self.learned_dof, self.log_scale, self.link = learned, math.log(scale), link
        self.support = "unit" if link == "sigmoid" else "real"
        log_excess = torch.tensor([math.log(dof - 1)])
        if learned:
            self.log_excess = nn.Parameter(log_excess / SPEEDUP)
        else:
            self.register_buffer("log_excess", log_excess, persistent=False)

    @property
    def param_shape(self) -> Shape:
        return multiply_channels(self.data_shape, 2)

    @property
    def dof(self) -> Tensor:
        """The degrees of freedom, ``(1,)``."""
        log_excess = soft_upper_bound(SPEEDUP * self.log_excess, math.log(MAX_DOF)) if self.learned_dof else self.log_excess
        return 1 + torch.exp(log_excess)

    def forward(self, params: Tensor) -> StudentTPixels:
        ndim = len(self.data_shape)
        location, log_scale = fields_of(params, ndim, 2).unbind(-ndim - 1)
        log_scale = soft_lower_bound(self.log_scale + log_scale, math.log(MIN_SCALE))
        return StudentTPixels(mean_image(location, self.link), log_scale, self.dof, ndim)

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor) -> Tensor:
        """Draw ``(num, 2, *data_shape)``, standard normal."""
        return torch.randn(num, 2, *self.data_shape, generator=generator, device=like.device, dtype=like.dtype)
