"""The posterior of a ladder VAE."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from vaekit.distributions import DiagonalGaussian, at_least_float32
from vaekit.distributions.ladder import Merged, TopDown, TwoLayers
from vaekit.errors import UsageError
from vaekit.interfaces import Capability, Posterior, Shape
from vaekit.roles import posteriors


@posteriors("ladder")
class Ladder(Posterior):
    """Two layers of latents, ``q(z|x) = q(z2|x) q(z1|x, z2)``: the posterior of a ladder VAE.

    q(z1|x, z2) is in proportion to the prior's p(z1|z2) and to a Gaussian that the encoder emits, which thus need only say how an
    example differs from what z2 predicts. One encoder serves both layers; the prior's ``top`` says how many latents are z2. The
    KL is estimated by the samples, latent by latent: ``kl_per_latent`` shows what each layer carries.

    Warm up the KL (``--loss beta --beta "linear(0, 1, 10)"``): on digits, the bottom layer then carries 9 of 23 nats, and else 2
    of 17.

    Args:
        max_logvar: Bound of the log-variances that the encoder emits.

    References:
        Sønderby et al. (2016), "Ladder Variational Autoencoders", NeurIPS, arXiv:1602.02282, equations 18 and 19.
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

    def forward(self, params: Tensor, model: Any = None) -> TwoLayers:
        p = None if model is None else model.prior(model)
        if not isinstance(p, TwoLayers) or not isinstance(p.bottom, TopDown):
            raise UsageError(
                "the posterior 'ladder' depends on p(z1|z2), which the prior has not",
                given="no model" if model is None else f"the prior {model.prior.kind!r}",
                expected="a model with the prior 'ladder'",
            )
        mu, raw = at_least_float32(params).unbind(-2)
        (mu2, mu1), (logvar2, logvar1) = (p.split(each) for each in (mu, raw.clamp(-self.max_logvar, self.max_logvar)))
        return TwoLayers(DiagonalGaussian(mu2, logvar2), Merged(DiagonalGaussian(mu1, logvar1), p.bottom))
