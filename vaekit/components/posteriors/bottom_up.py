"""A hierarchical posterior inferred from the bottom up."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from vaekit.distributions import DiagonalGaussian, at_least_float32
from vaekit.distributions.ladder import Layers, Network, sizes_of
from vaekit.errors import UsageError
from vaekit.interfaces import Capability, Posterior, Shape
from vaekit.nn.chains import chained, weights_of
from vaekit.nn.layers import Widths
from vaekit.roles import posteriors
from vaekit.schema import Count


@posteriors("bottom_up")
class BottomUp(Posterior):
    """Layers of latents from the bottom up, ``q(z|x) = q(z_L|x) prod_l q(z_l|z_>l)``: the posterior of IWAE's two-layer models.

    The encoder infers the bottom layer z_L; networks of the posterior infer each higher layer from those below it. The prior
    generates the same layers from the top down and must have the same ``layers`` and ``top``. The KL is estimated from samples,
    latent by latent.

    In the paper, p(x|z) depends on z_L alone; here, the decoder sees all layers.

    Args:
        layers: Number of layers.
        top: Number of latents in the top layer; default: an equal share. The rest is divided equally among the other layers.
        hidden: Widths of the hidden layers in the networks that infer a layer from those below.
        max_logvar: Bound of the log-variances that the encoder outputs.

    References:
        Burda et al. (2016), "Importance Weighted Autoencoders", ICLR, arXiv:1509.00519, section 2.
    """

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})
    space = "ladder"
    default_prior = "ladder"

    def __init__(
        self,
        latent_dim: int,
        *,
        layers: Count = 2,
        top: Count | None = None,
        hidden: Widths = (128,),
        max_logvar: Annotated[float, Field(gt=0, le=60)] = 20.0,
    ) -> None:
        super().__init__(latent_dim)
        self.sizes, self.max_logvar = sizes_of(latent_dim, layers, top), max_logvar
        self.networks = chained(self.sizes[::-1], hidden)

    @property
    def param_shape(self) -> Shape:
        return (2, self.sizes[-1])

    def forward(self, params: Tensor, model: Any = None) -> Layers:
        p = None if model is None else model.prior(model)
        if p is not None and (not isinstance(p, Layers) or p.sizes != self.sizes):
            raise UsageError(
                "the posterior 'bottom_up' and the prior have different layers",
                given=f"layers of {p.sizes} latents in the prior" if isinstance(p, Layers) else f"the prior {model.prior.kind!r}",
                expected=f"layers of {self.sizes} latents",
                remedy="use the same layers and top for posterior and prior",
            )
        mu, logvar = at_least_float32(params).unbind(-2)
        bottom = DiagonalGaussian(mu, logvar.clamp(-self.max_logvar, self.max_logvar))
        return Layers(self.sizes, bottom, tuple(Network(weights_of(each)) for each in self.networks), upward=True)
