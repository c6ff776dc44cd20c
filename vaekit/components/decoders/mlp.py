"""The decoder ``mlp``."""

from __future__ import annotations

from torch import Tensor

from vaekit.interfaces import Backbone, Shape
from vaekit.nn.layers import Activation, Normalization, Widths, fully_connected
from vaekit.roles import decoders


@decoders("mlp")
class MLP(Backbone):
    """Fully connected layers from the latent vector to every pixel; the fastest backbone, for images up to about 32×32.

    Its last layer has width × pixels weights, each pixel its own, so prefer ``cnn`` for anything larger. It emits any
    shape, image or not. With ``hidden`` empty it is one linear layer.

    Shapes: ``(B, *in_shape)`` to ``(B, *out_shape)``, both arbitrary; outputs are unbounded.

    Args:
        hidden: Widths of the hidden layers, from the latent vector on.
        activation: Nonlinearity after every hidden layer.
        normalization: What normalises every hidden layer before its activation: all of it, groups of it, or nothing.

    Reference: Kingma and Welling 2014, "Auto-Encoding Variational Bayes", arXiv:1312.6114, appendix C.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        hidden: Widths = (512, 512),
        activation: Activation = "silu",
        normalization: Normalization = "none",
    ) -> None:
        super().__init__(in_shape, out_shape)
        self.net = fully_connected(in_shape, hidden, out_shape, activation, normalization)

    def forward(self, z: Tensor) -> Tensor:
        params: Tensor = self.net(z)
        return params
