"""The VampPrior."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vaekit.components.priors._mixtures import MixturePrior, spread_indices
from vaekit.distributions import MixtureOf
from vaekit.interfaces import Capability, Shape
from vaekit.roles import priors
from vaekit.schema import Count
from vaekit.trace import Trace


@priors("vamp")
class Vamp(MixturePrior):
    """The VampPrior: a mixture of the posteriors of learned pseudo-inputs, which adapts to the codes.

    ``p(z) = (1/K) sum_k q(z|u_k)``, whose gradient also trains the encoder. Each step encodes the K pseudo-inputs, which are
    initialised with training images and stay within the range of the data; in a conditional model, each keeps the label of its
    image. The KL is estimated from samples.

    Args:
        num_inputs: Number of pseudo-inputs K.

    References:
        Tomczak and Welling (2018), "VAE with a VampPrior", AISTATS, arXiv:1705.07120, section 3.
    """

    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})
    labels: Tensor

    def __init__(self, latent_dim: int, data_shape: Shape, *, num_inputs: Count = 100) -> None:
        super().__init__(latent_dim)
        self.inputs = nn.Parameter(torch.rand(num_inputs, *data_shape))
        self.register_buffer("labels", torch.zeros(num_inputs, dtype=torch.int64))

    def forward(self, model: Any = None, c: Tensor | None = None) -> MixtureOf:
        del c
        within = self.inputs.clamp(*model.value_range)
        images = self.inputs + (within - self.inputs).detach()  # a pixel outside the range has a gradient that brings it back
        return MixtureOf(model.encode(images, self.labels))

    def initial_state(self, trace: Trace) -> dict[str, Tensor]:
        index = spread_indices(len(self.inputs), len(trace.x))
        return {"inputs": trace.x[index].nan_to_num(0.0)} | ({} if trace.y is None else {"labels": trace.y[index]})
