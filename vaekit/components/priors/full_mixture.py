"""A mixture of Gaussians with full covariances, fitted to codes."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.components.priors._mixtures import MixturePrior
from vaekit.distributions import FullGaussianMixture
from vaekit.errors import UsageError
from vaekit.extras import import_extra
from vaekit.roles import priors
from vaekit.schema import Few
from vaekit.trace import Trace

MOST_LATENTS = 1024
"""Maximum number of latents: the covariances of ten components then have 5 million parameters."""
LEAST_SHARE = 1e-4
"""Regularisation added to the variances of a component, as a fraction of the mean variance of the codes."""


@priors("full_mixture")
class FullMixture(MixturePrior):
    """A mixture of full-covariance Gaussians, initialised by EM on the codes of training images.

    It is meant for ex-post density estimation (``vaekit fit-prior RUN --prior full_mixture``): gradient steps on the loss
    `prior_nll` then refine the fit on all codes. EM uses up to 10,000 images, at least as many as there are latents. Requires
    ``pip install "vaekit[mixtures]"`` (scikit-learn). The KL has no closed form.

    Args:
        num_components: Number of Gaussians, each with ``D (D + 3) / 2`` parameters.

    References:
        Ghosh et al. (2020), "From Variational to Deterministic Autoencoders", ICLR, arXiv:1903.12436, section 4.
    """

    num_initial = (
        10_000  # log p of held-out codes of MNIST with 32 latents: -44.8 if fitted to 1,024, -37.8 to these, -37.3 to all
    )
    place: Tensor

    def __init__(self, latent_dim: int, *, num_components: Few = 10) -> None:
        super().__init__(latent_dim)
        if latent_dim > MOST_LATENTS:
            raise _too_large(f"{latent_dim} latents", f"at most {MOST_LATENTS}")
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.mu = nn.Parameter(torch.randn(num_components, latent_dim))
        self.log_diagonal = nn.Parameter(torch.zeros(num_components, latent_dim))
        self.below = nn.Parameter(torch.zeros(num_components, latent_dim * (latent_dim - 1) // 2))
        rows, columns = torch.tril_indices(latent_dim, latent_dim, -1)
        diagonal = torch.arange(latent_dim) * (latent_dim + 1)
        self.register_buffer("place", torch.cat([diagonal, rows * latent_dim + columns]), persistent=False)

    @property
    def tril(self) -> Tensor:
        """The Cholesky factors of the covariances, ``(K, D, D)``."""
        num, dim = self.mu.shape
        values = torch.cat([torch.exp(self.log_diagonal), self.below], 1)
        return values.new_zeros(num, dim * dim).index_copy(1, self.place, values).view(num, dim, dim)

    def forward(self, model: Any = None, c: Tensor | None = None) -> FullGaussianMixture:
        del model, c
        return FullGaussianMixture(self.logits, self.mu, self.tril)

    def initial_state(self, trace: Trace) -> dict[str, Tensor]:
        library = import_extra("sklearn.mixture", "mixtures", "the prior 'full_mixture'")
        codes, num = trace.z.flatten(0, -2).double().cpu().numpy(), len(self.logits)
        if len(codes) < max(num, self.latent_dim):
            given = f"{len(codes)} codes of {self.latent_dim} latents for {num} components"
            raise _too_large(given, "at least as many codes as latents and as components")
        floor = max(LEAST_SHARE * float(codes.var(0).mean()), 1e-12)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # if EM stops early or finds fewer clusters, gradient steps continue from there
            fit = library.GaussianMixture(num, reg_covar=floor, random_state=0).fit(codes)
        weights, mu, covariances = (torch.from_numpy(each) for each in (fit.weights_, fit.means_, fit.covariances_))
        factors = torch.linalg.cholesky(covariances).flatten(1)[:, self.place.cpu()]
        diagonal, below = factors.split([self.latent_dim, factors.shape[1] - self.latent_dim], 1)
        state = {"logits": torch.log(weights), "mu": mu, "log_diagonal": torch.log(diagonal), "below": below}
        return {name: value.to(self.mu) for name, value in state.items()}


def _too_large(given: str, expected: str) -> UsageError:
    return UsageError(
        "the covariances of the prior 'full_mixture' cannot be estimated",
        given=given,
        expected=expected,
        remedy="reduce --prior.num-components, or use --prior mixture, maf or rectified_flow",
    )
