"""The blocks of latent diffusion's autoencoder, with the parameter names of `diffusers`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vaekit.errors import UsageError
from vaekit.interfaces import Shape
from vaekit.nn.layers import CONVOLUTIONS, Size, halved_sizes, halvings_to, sides_of

EPS = 1e-6
"""The term added to the variance in GroupNorm."""
FEW_POSITIONS = 512
"""The maximum number of positions for which attention computes all scores at once: 1 MB per image."""
LEAST_CHANNELS = 4
"""The default minimum number of channels per group: Stable Diffusion normalises 128 channels in 32 groups."""


class Residual(nn.Module):
    """A residual block: two convolutions with kernels of size 3, each after GroupNorm and SiLU.

    If the number of channels changes, a pointwise convolution adapts the input.
    """

    def __init__(self, num_sides: int, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[num_sides]
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=EPS)
        self.conv1 = convolution(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=EPS)
        self.conv2 = convolution(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = None if in_channels == out_channels else convolution(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        total: Tensor = (x if self.conv_shortcut is None else self.conv_shortcut(x)) + y
        return total


class Attention(nn.Module):
    """Residual single-head self-attention between all positions, after GroupNorm.

    Keys have no bias, since it would add a constant to the scores of each query, which the softmax ignores.

    References:
        Vaswani et al. (2017), "Attention Is All You Need", NeurIPS, arXiv:1706.03762, equation 1.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=EPS)
        self.to_q, self.to_v = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        positions = self.group_norm(x).flatten(2).mT
        q, k, v = self.to_q(positions), self.to_k(positions), self.to_v(positions)
        y: Tensor = self.to_out[0](attend(q, k, v)).mT.unflatten(2, x.shape[2:])
        return x + y


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return attention of queries to keys and values, ``(B, P, C)`` each.

    The fused kernel, which does not store the scores, has no batching rule for vmap and is slower for few positions.
    """
    if q.shape[1] > FEW_POSITIONS:
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]  # ONNX needs the head dimension
    scores = (q @ k.mT) / math.sqrt(q.shape[-1])
    return scores.softmax(-1) @ v


class Stage(nn.Module):
    """Residual blocks, each optionally followed by attention, then an optional change of resolution."""

    def __init__(self, resnets: Sequence[Residual], attentions: Sequence[Attention] = (), **change: nn.Module) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        if attentions:
            self.attentions = nn.ModuleList(attentions)
        for name, module in change.items():
            self.add_module(name, nn.ModuleList([module]))
        self.change = tuple(change)

    def forward(self, x: Tensor) -> Tensor:
        attentions = self.attentions if hasattr(self, "attentions") else ()
        for number, residual in enumerate(self.resnets):
            x = residual(x)
            if number < len(attentions):
                x = attentions[number](x)
        for name in self.change:
            x = self.get_submodule(name)[0](x)  # type: ignore[index]
        return x


def attention_layers(num: int, channels: int, groups: int, size: Size) -> list[Attention]:
    """Return ``num`` attention layers; none for a single position, which could only attend to itself."""
    return [Attention(channels, groups) for _ in range(num if math.prod(size) > 1 else 0)]


def middle(channels: int, groups: int, size: Size, *, attention: bool) -> Stage:
    """Return the blocks at the lowest resolution: two residual blocks, optionally with attention between them."""
    blocks = [Residual(len(size), channels, channels, groups) for _ in range(2)]
    return Stage(blocks, attention_layers(int(attention), channels, groups, size))


class Downsampling(nn.Module):
    """A convolution with kernel size 3 and stride 2; odd sides are rounded up."""

    def __init__(self, num_sides: int, channels: int) -> None:
        super().__init__()
        self.conv = CONVOLUTIONS[num_sides](channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        padding = [number for side in reversed(x.shape[2:]) for number in (0, 1 + side % 2)]
        y: Tensor = self.conv(F.pad(x, padding))
        return y


class Upsampling(nn.Module):
    """Nearest-neighbour upsampling by 2, then a convolution with kernel size 3.

    Args:
        num_sides: The number of sides.
        channels: The number of channels.
        crop: The number of positions to crop at the end of each side: 1 if the encoder rounded up.
    """

    def __init__(self, num_sides: int, channels: int, crop: Size) -> None:
        super().__init__()
        self.crop = crop
        self.conv = CONVOLUTIONS[num_sides](channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(x, scale_factor=2.0, mode="nearest")
        for axis, excess in enumerate(self.crop, start=2):
            if excess:
                y = y.narrow(axis, 0, y.shape[axis] - excess)
        z: Tensor = self.conv(y)
        return z


def run(blocks: Sequence[nn.Module], x: Tensor, *, checkpointing: bool) -> Tensor:
    """Pass a tensor through blocks; with checkpointing, activations inside blocks are recomputed in the backward pass.

    Args:
        blocks: The blocks.
        x: The input.
        checkpointing: Whether to store only the input of each block.

    References:
        Chen et al. (2016), "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174.
    """
    for block in blocks:
        x = _checkpointed(block, x) if checkpointing else block(x)
    return x


def _checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """Run a block with its current parameters, which may be views that no longer exist in the backward pass."""
    parameters = dict(block.named_parameters())
    function: Callable[..., Tensor] = lambda x, parameters: functional_call(block, parameters, (x,))  # noqa: E731
    y: Tensor = checkpoint(function, x, parameters, use_reentrant=False, preserve_rng_state=False)
    return y


class Plan(NamedTuple):
    """The sizes of feature maps, and the number of normalisation groups.

    Args:
        sizes: The sides of the data and after each halving.
        groups: The number of groups of every GroupNorm.
    """

    sizes: list[Size]
    groups: int

    @property
    def halvings(self) -> int:
        """The number of halvings, which follow the first stages."""
        return len(self.sizes) - 1

    def size_of(self, stage: int) -> Size:
        """Return the sides of the feature maps of a stage, from 1 at the data."""
        return self.sizes[min(stage - 1, self.halvings)]


def plan_of(
    data_shape: Shape, grid: Shape, backbone: str, *, channels: Sequence[int], groups: int | None, attention: Sequence[int]
) -> Plan:
    """Check the options of a network between data and latents; return its plan.

    Args:
        data_shape: The shape of an example.
        grid: The sides of the grid of latents; empty for a vector, in which case sides are halved between all stages.
        backbone: Name of the backbone, for error messages.
        channels: The numbers of channels of the stages.
        groups: The number of groups; default: the largest number up to 32 that leaves at least 4 channels per group.
        attention: The stages with attention.

    Raises:
        UsageError: The data have no sides, halving does not lead to the grid, channels cannot be divided into equal groups, or
            a stage with attention does not exist.
    """
    size, num_stages = sides_of(data_shape, backbone), len(channels)
    if any(stage > num_stages for stage in attention):
        raise UsageError(
            "attention is requested for a stage that does not exist",
            given=f"attention {','.join(map(str, attention))}, and {num_stages} entries of channels",
            expected=f"stages from 1 to {num_stages}",
        )
    halvings = halvings_to(grid, size, num_stages - 1) if grid else num_stages - 1
    if halvings is None:
        raise UsageError(
            f"the {backbone} does not reach the grid of latents",
            given=f"latents of {'×'.join(map(str, grid))} for data of {'×'.join(map(str, size))}, and {num_stages} stages",
            expected=f"a latent stride that is a power of 2, at most {2 ** (num_stages - 1)}",
            remedy="change --latent-stride, or the number of entries of channels",
        )
    return Plan(halved_sizes(size, halvings), groups_of(channels, groups))


def groups_of(channels: Sequence[int], groups: int | None) -> int:
    """Return the number of groups of every GroupNorm of a network.

    Args:
        channels: The numbers of channels.
        groups: The requested number; default: the largest number up to 32 that leaves at least 4 channels per group.

    Raises:
        UsageError: It does not divide each number of channels into equal groups.
    """
    if groups is None:
        fitting = [number for number in range(1, 33) if not any(width % number for width in channels)]
        groups = max((number for number in fitting if min(channels) // number >= LEAST_CHANNELS), default=1)
    if any(width % groups for width in channels):
        raise UsageError(
            "channels cannot be divided into equal groups",
            given=f"channels {','.join(map(str, channels))} and {groups} groups",
            expected="numbers of channels that are multiples of the number of groups",
        )
    return groups
