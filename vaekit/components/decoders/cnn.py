"""The decoder ``cnn``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from vaekit.interfaces import Backbone, Shape
from vaekit.nn.layers import Activation, Channels, Normalization, Size, Widths, check_image, growing
from vaekit.roles import decoders


@decoders("cnn")
class CNN(Backbone):
    """Fully connected layers, then transposed 3×3 convolutions; the mirror of the encoder ``cnn``, and as fast.

    Each transposed convolution doubles both sides, less one where the image's size asks for it, so every size is met
    exactly, without crop or resize. Early in training it may leave a faint checkerboard, which ``bilinear`` cannot.

    Shapes: ``(B, *in_shape)`` to ``(B, C, H, W)``, any sides; outputs are unbounded.

    Args:
        channels: Input channels of the transposed convolutions, towards the image; each entry doubles the size once more.
        hidden: Widths of the linear layers between the latent vector and the first feature map.
        activation: Nonlinearity after every layer but the last.
        normalization: What normalises hidden layers before their activation: all of an example, channel groups, or nothing.

    Reference: Burgess et al. 2018, "Understanding disentangling in β-VAE", arXiv:1804.03599, appendix A; here with
    3×3 kernels and more channels.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        channels: Channels = (64, 64, 64, 32),
        hidden: Widths = (256,),
        activation: Activation = "silu",
        normalization: Normalization = "none",
    ) -> None:
        super().__init__(in_shape, out_shape)
        check_image(out_shape, "decoder 'cnn'")
        self.net = growing(
            _transposed,
            in_shape=in_shape,
            hidden=hidden,
            channels=channels,
            image_shape=out_shape,
            activation=activation,
            normalization=normalization,
        )

    def forward(self, z: Tensor) -> Tensor:
        params: Tensor = self.net(z)
        return params


def _transposed(width: int, next_width: int, size: Size, next_size: Size) -> Callable[..., nn.Module]:
    padding = (next_size[0] - (2 * size[0] - 1), next_size[1] - (2 * size[1] - 1))
    return partial(nn.ConvTranspose2d, width, next_width, 3, stride=2, padding=1, output_padding=padding)
