"""A masked autoregressive flow as the prior."""

from __future__ import annotations

from vaekit.components.priors._flows import FlowPrior
from vaekit.nn.layers import Channels
from vaekit.roles import priors
from vaekit.schema import Few


@priors("maf")
class MAF(FlowPrior):
    """A masked autoregressive flow: a prior of almost any shape. Requires ``pip install "vaekit[flows]"`` (zuko).

    The density takes one pass through each transform, sampling as many passes as there are latents. The KL is estimated from
    samples.

    Args:
        transforms: Number of autoregressive transforms.
        hidden: Widths of the hidden layers in each transform.

    References:
        Papamakarios et al. (2017), "Masked Autoregressive Flow for Density Estimation", NeurIPS, arXiv:1705.07057.
    """

    def __init__(self, latent_dim: int, *, transforms: Few = 3, hidden: Channels = (128, 128)) -> None:
        super().__init__(latent_dim, "MAF", transforms=transforms, hidden_features=tuple(hidden))
