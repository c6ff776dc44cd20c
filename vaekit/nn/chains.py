"""Networks of the layers of a hierarchy, each of which sees the layers that are drawn before it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from torch import Tensor, nn

from vaekit.nn.layers import CONVOLUTIONS, Widths, initialize_weights


def chained(sizes: Sequence[int], hidden: Widths, num_sides: int = 0) -> nn.ModuleList:
    """Return a network for each layer but the first, that maps the layers before it to two numbers for each latent.

    Args:
        sizes: The numbers of latents of the layers, or of their channels, in the order in which they are drawn.
        hidden: The widths of the hidden layers of the networks.
        num_sides: The number of sides of the grid of latents, over which networks are convolutional with kernels of 3 positions;
            0 for vectors, for which they are fully connected.
    """
    networks = nn.ModuleList()
    for before, size in zip(accumulate(sizes), sizes[1:], strict=False):
        network = nn.ModuleList(_layer(*each, num_sides) for each in pairwise((before, *hidden, 2 * size)))
        initialize_weights(network[:-1])
        networks.append(network)
    return networks


def _layer(inputs: int, outputs: int, num_sides: int) -> nn.Module:
    return nn.Linear(inputs, outputs) if num_sides == 0 else CONVOLUTIONS[num_sides](inputs, outputs, 3, padding="same")


def weights_of(network: nn.Module) -> tuple[tuple[Tensor, Tensor], ...]:
    """Return the weights and biases of a network of `chained`."""
    return tuple((layer.weight, layer.bias) for layer in network.children())  # type: ignore[misc]
