"""The prior of the Exemplar VAE."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vaekit.components.priors._mixtures import MixturePrior, spread_indices
from vaekit.distributions import GaussianMixture
from vaekit.errors import UsageError
from vaekit.interfaces import Shape
from vaekit.roles import priors
from vaekit.schema import Count
from vaekit.trace import Trace


@priors("exemplar")
class Exemplar(MixturePrior):
    """A mixture of Gaussians around the codes of training images, the exemplars: samples are variations of known images.

    ``p(z) = (1/M) sum_m N(z; mu(x_m), s^2 I)`` with the posterior's mean mu and one learned variance. The exemplars x_m are a
    queue of the M images trained on last, with their labels in a conditional model; each step encodes them, which also trains
    the encoder. They are saved with the model, and evaluation does not change them. The KL is estimated from samples.

    An image should not be its own exemplar, or the KL would reward memorising it: a batch joins the queue after its step.
    Still, an image late in one epoch and early in the next can meet itself. With batches of B, this happens to ``M (M + B) / (2
    N)`` of N images per epoch, or 3 of 50,000 by default. Therefore M is at most a tenth of the training set.

    Args:
        num_exemplars: Number of exemplars M.

    References:
        Norouzi et al. (2020), "Exemplar VAE: Linking Generative Models, Nearest Neighbor Retrieval, and Data Augmentation",
            NeurIPS, arXiv:2004.04795, section 3.
    """

    learned = ("inputs", "labels")
    examples = ("inputs",)
    inputs: Tensor
    labels: Tensor

    def __init__(self, latent_dim: int, data_shape: Shape, *, num_exemplars: Count = 500) -> None:
        super().__init__(latent_dim)
        self.logvar = nn.Parameter(torch.zeros(1))
        self.register_buffer("inputs", torch.rand(num_exemplars, *data_shape))
        self.register_buffer("labels", torch.zeros(num_exemplars, dtype=torch.int64))

    def forward(self, model: Any = None, c: Tensor | None = None) -> GaussianMixture:
        del c
        mu = model.encode(self.inputs, self.labels).mean
        return GaussianMixture(mu.new_zeros(len(mu)), mu, (0.5 * self.logvar).expand_as(mu))

    def next_state(self, trace: Trace) -> dict[str, Tensor]:
        num = len(self.inputs)
        labels = self.labels if trace.y is None else torch.cat([self.labels, trace.y])[-num:]
        return {"inputs": torch.cat([self.inputs, trace.x])[-num:], "labels": labels}

    def initial_state(self, trace: Trace) -> dict[str, Tensor]:
        num = len(self.inputs)
        most = num if trace.num_data is None else max(1, trace.num_data // 10)
        if num > most:
            raise UsageError(
                "the prior 'exemplar' has too many exemplars: images would often be their own",
                given=f"{num} exemplars, {trace.num_data} training images",
                expected="at most a tenth of the training images",
                remedy=f"use --prior.num-exemplars {most} or less",
            )
        index = spread_indices(num, len(trace.x))
        return {"inputs": trace.x[index]} | ({} if trace.y is None else {"labels": trace.y[index]})
