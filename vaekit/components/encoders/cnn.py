"""The encoder ``cnn``."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from vaekit.interfaces import Backbone, Shape
from vaekit.nn.layers import (
    CONVOLUTIONS,
    Activation,
    Channels,
    Normalization,
    Widths,
    hidden_layer,
    parameters_head,
    sides_of,
    strides_to,
)
from vaekit.roles import encoders


@encoders("cnn")
class CNN(Backbone):
    """Strided 3×3 convolutions, then fully connected layers; a good default for images of any size.

    Each convolution halves every side, rounding up, so the default four reduce 28×28 to 2×2 and 150×150 to 10×10. The next
    linear layer has weights for every remaining position: for much larger images, add an entry to ``channels``. Unlike the
    paper's encoder, this one has 3×3 kernels and more channels. For a grid of latents, halving stops at the size of the grid,
    and a pointwise convolution replaces the linear layers.

    Shapes: ``(B, C, L)``, ``(B, C, H, W)`` or ``(B, C, D, H, W)``, sides of any length, to ``(B, *out_shape)``.

    Args:
        channels: Output channels of the convolutions, starting at the image; each convolution halves the size.
        hidden: Widths of the linear layers between the convolutions and the output.
        activation: Nonlinearity after every convolution and hidden layer.
        normalization: Normalisation of these layers before the activation: over a whole example, over channel groups, or none.

    References:
        Burgess et al. (2018), "Understanding disentangling in β-VAE", arXiv:1804.03599, appendix A.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        channels: Channels = (32, 64, 64, 64),
        hidden: Widths = (256,),
        activation: Activation = "silu",
        normalization: Normalization = "none",
    ) -> None:
        super().__init__(in_shape, out_shape)
        size = sides_of(in_shape, f"encoder {self.kind!r}")
        width = in_shape[0]
        convolutions: list[nn.Module] = []
        for next_width, stride in zip(channels, strides_to(out_shape[2:], size, len(channels)), strict=True):
            layer = partial(CONVOLUTIONS[len(size)], width, next_width, 3, stride=stride, padding=1)
            convolutions += hidden_layer(layer, next_width, activation, normalization)
            width = next_width
        self.convolutions = nn.Sequential(*convolutions[:-1])  # the last activation is the first of the head
        self.head = parameters_head(
            width, size, len(channels), out_shape, hidden=hidden, activation=activation, normalization=normalization
        )

    def forward(self, x: Tensor) -> Tensor:
        params: Tensor = self.head(self.convolutions(x))
        return params
