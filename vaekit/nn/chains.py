"""Fully connected networks for hierarchies, one per layer given the layers drawn before it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from torch import Tensor, nn

from vaekit.nn.layers import Widths, initialize_weights


def chained(sizes: Sequence[int], hidden: Widths) -> nn.ModuleList:
    """Return a network for each layer but the first, which maps the preceding layers to two numbers per latent.

    Args:
        sizes: The numbers of latents of the layers, in drawing order.
        hidden: The widths of the hidden layers of the networks.
    """
    networks = nn.ModuleList()
    for before, size in zip(accumulate(sizes), sizes[1:], strict=False):
        network = nn.ModuleList(nn.Linear(*each) for each in pairwise((before, *hidden, 2 * size)))
        initialize_weights(network[:-1])
        networks.append(network)
    return networks


def weights_of(network: nn.Module) -> tuple[tuple[Tensor, Tensor], ...]:
    """Return the weights and biases of a network from `chained`."""
    return tuple((layer.weight, layer.bias) for layer in network.children() if isinstance(layer, nn.Linear))
