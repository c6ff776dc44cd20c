"""Base class of the decoders that differ only in their upsampling layers."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from vaekit.interfaces import Backbone, Shape
from vaekit.nn.layers import (
    CONVOLUTIONS,
    Activation,
    Channels,
    Normalization,
    Size,
    Widths,
    hidden_layer,
    hidden_linear_layers,
    sides_of,
    upsampled_sizes,
)


class UpsamplingDecoder(Backbone):
    """Linear layers to a small feature map, then upsampling layers that each double its sides."""

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
        """Build the network.

        Args:
            in_shape: Shape of a latent vector or of a grid of latents.
            out_shape: ``(C, L)``, ``(C, H, W)`` or ``(C, D, H, W)``.
            channels: Input channels of the upsampling layers, from the latent vector to the image; each layer doubles the size.
            hidden: Widths of the linear layers between the latent vector and the first feature map.
            activation: Nonlinearity after every layer but the last.
            normalization: Normalisation of each hidden layer before its activation: over a whole example, over channel groups,
                or none.

        Raises:
            UsageError: ``out_shape`` is not the shape of a signal, an image or a volume.
        """
        super().__init__(in_shape, out_shape)
        sizes = upsampled_sizes(in_shape, sides_of(out_shape, f"decoder {self.kind!r}"), len(channels))
        map_shape = (channels[0], *sizes[0])
        if in_shape[1:] != sizes[0]:
            layers = hidden_linear_layers(in_shape, (*hidden, math.prod(map_shape)), activation, normalization)
            layers.append(nn.Unflatten(1, map_shape))
        else:
            layers = hidden_layer(partial(CONVOLUTIONS[len(sizes[0])], in_shape[0], channels[0], 1), channels[0], activation)
        for (width, next_width), (size, next_size) in zip(pairwise(channels), pairwise(sizes[:-1]), strict=True):
            layers += hidden_layer(self._layer(width, next_width, size, next_size), next_width, activation, normalization)
        # PyTorch's default initialisation: the other decoders' smaller initial logits were 3 nats worse on digits after 6 epochs.
        output = self._layer(channels[-1], out_shape[0], sizes[-2], sizes[-1])(bias=True)
        self.net = nn.Sequential(*layers, output)

    def _layer(self, channels: int, next_channels: int, size: Size, next_size: Size) -> Callable[..., nn.Module]:
        """Return a function of ``bias`` that builds the layer from one size to the next; both may be the same."""
        if size == next_size:
            return partial(CONVOLUTIONS[len(size)], channels, next_channels, 3, padding=1)
        return self.upsampling_layer(channels, next_channels, size, next_size)

    @staticmethod
    @abstractmethod
    def upsampling_layer(channels: int, next_channels: int, size: Size, next_size: Size) -> Callable[..., nn.Module]:
        """Return a function of ``bias`` that builds the layer between two numbers of channels and sizes."""

    def forward(self, z: Tensor) -> Tensor:
        params: Tensor = self.net(z)
        return params
