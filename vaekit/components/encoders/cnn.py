"""The encoder ``cnn``."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from vaekit.interfaces import Backbone, Shape
from vaekit.nn.layers import Activation, Channels, Normalization, Widths, check_image, fully_connected, halvings, unit
from vaekit.roles import encoders


@encoders("cnn")
class CNN(Backbone):
    """Strided 3×3 convolutions, then fully connected layers; a sound default for images of any size.

    Each convolution halves both sides, rounded up, so the default's four leave 2×2 of 28×28 and 10×10 of 150×150. The
    weights of the linear layer that follows grow with what is left: add an entry to ``channels`` for much larger images.

    Shapes: ``(B, C, H, W)``, any sides, to ``(B, *out_shape)``.

    Args:
        channels: Output channels of the convolutions, from the image on; each entry halves the image once more.
        hidden: Widths of the linear layers between the convolutions and the output.
        activation: Nonlinearity after every convolution and hidden layer.
        normalization: What normalises each of them before its activation: all of an example, channel groups, or nothing.

    Reference: Burgess et al. 2018, "Understanding disentangling in β-VAE", arXiv:1804.03599, appendix A; here with
    3×3 kernels and more channels.
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
        check_image(in_shape, "encoder 'cnn'")
        width = in_shape[0]
        convolutions: list[nn.Module] = []
        for next_width in channels:
            layer = partial(nn.Conv2d, width, next_width, 3, stride=2, padding=1)
            convolutions += unit(layer, next_width, activation, normalization)
            width = next_width
        self.convolutions = nn.Sequential(*convolutions)
        feature_shape = (width, *halvings(in_shape, len(channels))[-1])
        self.head = fully_connected(feature_shape, hidden, out_shape, activation, normalization)

    def forward(self, x: Tensor) -> Tensor:
        params: Tensor = self.head(self.convolutions(x))
        return params
