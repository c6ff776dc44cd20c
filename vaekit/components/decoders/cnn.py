"""The decoder ``cnn``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from vaekit.components.decoders._upsampling import UpsamplingDecoder
from vaekit.nn.layers import Size
from vaekit.roles import decoders


@decoders("cnn")
class CNN(UpsamplingDecoder):
    """Fully connected layers, then transposed 3×3 convolutions; the mirror image of the encoder ``cnn``, and as fast.

    Each transposed convolution doubles both sides, or makes them one pixel shorter than that where the image requires it, so any
    size is met exactly, without cropping or resizing. Early in training, images may show a faint checkerboard, which ``bilinear``
    avoids. Compared with the paper's decoder, kernels are 3×3 and there are more channels.

    Shapes: ``(B, *in_shape)`` to ``(B, C, H, W)``, any height and width; outputs are unbounded.

    References:
        Burgess et al. (2018), "Understanding disentangling in β-VAE", arXiv:1804.03599, appendix A.
    """

    @staticmethod
    def upsampling_layer(channels: int, next_channels: int, size: Size, next_size: Size) -> Callable[..., nn.Module]:
        padding = (next_size[0] - (2 * size[0] - 1), next_size[1] - (2 * size[1] - 1))
        return partial(nn.ConvTranspose2d, channels, next_channels, 3, stride=2, padding=1, output_padding=padding)
