"""The decoder ``cnn``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from vaekit.components.decoders._upsampling import UpsamplingDecoder
from vaekit.nn.layers import TRANSPOSED_CONVOLUTIONS, Size
from vaekit.roles import decoders


@decoders("cnn")
class CNN(UpsamplingDecoder):
    """Fully connected layers, then transposed 3×3 convolutions; the mirror image of the encoder ``cnn``.

    Each transposed convolution doubles every side, minus one pixel where the target size requires it, so any output size is
    matched exactly, without cropping or resizing. Early in training, images may show faint checkerboard artefacts; ``bilinear``
    avoids them. Unlike the paper's decoder, this one has 3×3 kernels and more channels.

    Shapes: ``(B, *in_shape)`` to ``(B, C, L)``, ``(B, C, H, W)`` or ``(B, C, D, H, W)``, sides of any length; outputs are
    unbounded.

    References:
        Burgess et al. (2018), "Understanding disentangling in β-VAE", arXiv:1804.03599, appendix A.
    """

    @staticmethod
    def upsampling_layer(channels: int, next_channels: int, size: Size, next_size: Size) -> Callable[..., nn.Module]:
        layer: Callable[..., nn.Module] = TRANSPOSED_CONVOLUTIONS[len(size)]
        padding = tuple(larger - (2 * side - 1) for side, larger in zip(size, next_size, strict=True))
        return partial(layer, channels, next_channels, 3, stride=2, padding=1, output_padding=padding)
