"""Backbones that can be encoders and decoders."""

from __future__ import annotations

from torch import Tensor

from vaekit.interfaces import Backbone, Shape
from vaekit.nn.layers import Activation, Normalization, Widths, fully_connected


class FullyConnected(Backbone):
    """Fully connected layers, from any shape to any shape."""

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        hidden: Widths = (512, 512),
        activation: Activation = "silu",
        normalization: Normalization = "none",
    ) -> None:
        """Build the network.

        Args:
            in_shape: Shape of an input.
            out_shape: Shape of an output.
            hidden: Widths of the hidden layers, from input to output; empty for a single linear layer.
            activation: Nonlinearity after every hidden layer.
            normalization: Normalisation of every hidden layer before its activation: over the whole layer, over groups, or
                none.
        """
        super().__init__(in_shape, out_shape)
        self.net = fully_connected(in_shape, hidden, out_shape, activation, normalization)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.net(x)
        return output
