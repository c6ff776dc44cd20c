"""The decoder ``bilinear``."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from vaekit.components.decoders._upsampling import UpsamplingDecoder
from vaekit.nn.layers import CONVOLUTIONS, LINEAR_MODES, Size
from vaekit.roles import decoders


@decoders("bilinear")
class Bilinear(UpsamplingDecoder):
    """Fully connected layers, then bilinear upsampling followed by 3×3 convolutions: no checkerboard artefacts.

    Upsampling is linear along each side, hence bilinear for images.

    It has as many parameters as ``cnn`` but takes about four times the arithmetic, since each convolution runs at the larger
    size. Every upsampling layer has an explicit target size, so any output size is matched exactly, and the decoder can be
    exported to ONNX.

    Shapes: ``(B, *in_shape)`` to ``(B, C, L)``, ``(B, C, H, W)`` or ``(B, C, D, H, W)``, sides of any length; outputs are
    unbounded.

    References:
        Odena et al. (2016), "Deconvolution and Checkerboard Artifacts", Distill, doi:10.23915/distill.00003.
    """

    @staticmethod
    def upsampling_layer(channels: int, next_channels: int, size: Size, next_size: Size) -> Callable[..., nn.Module]:
        del size  # upsampling needs the target size only
        upsampling = nn.Upsample(next_size, mode=LINEAR_MODES[len(next_size)])
        convolution = CONVOLUTIONS[len(next_size)]
        return lambda bias: nn.Sequential(upsampling, convolution(channels, next_channels, 3, padding=1, bias=bias))
