"""A neural spline flow as the prior."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vaekit.components.priors._flows import FlowPrior
from vaekit.nn.layers import Channels
from vaekit.roles import priors
from vaekit.schema import Few


@priors("nsf")
class NSF(FlowPrior):
    """An autoregressive neural spline flow: a prior of almost any shape. Requires ``pip install "vaekit[flows]"`` (zuko).

    Each transform warps every latent by a monotone spline, where `maf` only shifts and scales it, so even a single latent can
    have several modes; values outside [-5, 5] are left unchanged. The density takes one pass through each transform, sampling
    as many passes as there are latents. The KL is estimated from samples.

    Args:
        transforms: Number of autoregressive transforms.
        hidden: Widths of the hidden layers in each transform.
        bins: Number of bins of each spline.

    References:
        Durkan et al. (2019), "Neural Spline Flows", NeurIPS, arXiv:1906.04032, section 3.
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        transforms: Few = 3,
        hidden: Channels = (128, 128),
        bins: Annotated[Few, Field(ge=2)] = 8,
    ) -> None:
        super().__init__(latent_dim, "NSF", transforms=transforms, hidden_features=tuple(hidden), bins=bins)
