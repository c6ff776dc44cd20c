"""The decoder ``bilinear``."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from vaekit.interfaces import Backbone, Shape
from vaekit.nn.layers import Activation, Channels, Normalization, Size, Widths, check_image, growing
from vaekit.roles import decoders


@decoders("bilinear")
class Bilinear(Backbone):
    """Fully connected layers, then bilinear upsampling before each 3×3 convolution: smooth images without checkerboards.

    It costs about four times the arithmetic of ``cnn``, as each convolution runs at the larger size; its parameters are
    as many. Upsampling goes to explicit sizes, so every size is met exactly, and the decoder exports to ONNX.

    Shapes: ``(B, *in_shape)`` to ``(B, C, H, W)``, any sides; outputs are unbounded.

    Args:
        channels: Input channels of the upsampling steps, towards the image; each entry doubles the size once more.
        hidden: Widths of the linear layers between the latent vector and the first feature map.
        activation: Nonlinearity after every layer but the last.
        normalization: What normalises hidden layers before their activation: all of an example, channel groups, or nothing.

    Reference: Odena et al. 2016, "Deconvolution and Checkerboard Artifacts", doi:10.23915/distill.00003.
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
        check_image(out_shape, "decoder 'bilinear'")
        self.net = growing(
            _resized,
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


def _resized(width: int, next_width: int, size: Size, next_size: Size) -> Callable[..., nn.Module]:
    del size  # the upsampling needs only where it goes
    upsampling = nn.Upsample(next_size, mode="bilinear")
    return lambda bias: nn.Sequential(upsampling, nn.Conv2d(width, next_width, 3, padding=1, bias=bias))
