"""The posterior of inverse autoregressive flows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from vaekit.components.posteriors._flows import FlowPosterior, MaxLogvar
from vaekit.distributions.flows import GatedStep
from vaekit.nn.layers import Channels
from vaekit.roles import posteriors
from vaekit.schema import Count, Few

GATE = 2.0
"""The initial s, which makes a transform keep most of z, as recommended in the paper."""


@posteriors("iaf")
class IAF(FlowPosterior):
    """A Gaussian whose samples pass through inverse autoregressive flows: a posterior of almost any shape.

    Each transform shifts and scales every latent by the outputs of a network, which sees a context from the encoder and the
    preceding latents or, in every second transform, the following ones. Sampling takes one pass through each transform. The KL
    is estimated from samples.

    Args:
        transforms: Number of autoregressive transforms.
        hidden: Widths of the hidden layers in each transform.
        context: Size of the context vector.
        max_logvar: Bound of the log-variance of the Gaussian.

    References:
        Kingma et al. (2016), "Improved Variational Inference with Inverse Autoregressive Flow", NeurIPS, arXiv:1606.04934,
            algorithm 1.
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        transforms: Few = 4,
        hidden: Channels = (128,),
        context: Count = 64,
        max_logvar: MaxLogvar = 20.0,
    ) -> None:
        super().__init__(latent_dim, (context,), max_logvar)
        self.networks = nn.ModuleList(
            Autoregressive(latent_dim, context, hidden, descending=bool(number % 2)) for number in range(transforms)
        )

    def steps(self, params: Sequence[Tensor]) -> tuple[GatedStep, ...]:
        (context,) = params
        return tuple(network(context) for network in self.networks)


class Autoregressive(nn.Module):
    """The network of a transform: outputs i depend on the context and on the inputs before i, or after it if ``descending``.

    A unit of degree d sees the first d inputs; units of degree 0 see only the context. It is implemented here because zuko's
    transforms have no gate and do not expose the tensors needed to detach a density.

    References:
        Germain et al. (2015), "MADE: Masked Autoencoder for Distribution Estimation", ICML, arXiv:1502.03509, section 4.
    """

    def __init__(self, latent_dim: int, context: int, hidden: Sequence[int], *, descending: bool) -> None:
        super().__init__()
        ends = torch.arange(latent_dim)
        ends = ends.flip(0) if descending else ends
        degrees = [ends + 1, *(torch.arange(width) * latent_dim // width for width in hidden)]
        masks = [later[:, None] >= earlier for earlier, later in pairwise([*degrees, ends.repeat(2)])]
        self.context = nn.Linear(context, hidden[0])
        layers = [nn.Linear(mask.shape[1], mask.shape[0], bias=i > 0) for i, mask in enumerate(masks)]
        self.layers = nn.ModuleList(layers)
        for number, mask in enumerate(masks):
            self.register_buffer(f"mask{number}", mask.to(torch.get_default_dtype()), persistent=False)
        with torch.no_grad():
            layers[-1].bias[latent_dim:] += GATE

    def forward(self, context: Tensor) -> GatedStep:
        """Return the transform for a batch of contexts ``(B, context)``."""
        layers = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        weights = tuple(self.get_buffer(f"mask{number}") * layer.weight for number, layer in enumerate(layers))
        return GatedStep(weights, (self.context(context), *(layer.bias for layer in layers[1:])))
