"""How the numbers of convolutional models lie in memory."""

from __future__ import annotations

import torch
from torch import nn


def has_convolutions(module: nn.Module) -> bool:
    """Whether there is a two-dimensional convolution in a module, transposed or not."""
    return any(isinstance(each, nn.Conv2d | nn.ConvTranspose2d) for each in module.modules())


def spoils_channels_last(module: nn.Module) -> bool:
    """Whether a module is a strided 1×1 convolution of fewer channels than a vector register holds.

    With channels last, oneDNN writes its gradient past a buffer: wrong gradients, or a crash, for 2 to 7 channels on AVX2; by
    the report (https://github.com/uxlfoundation/oneDNN/issues/6035) to 15 on AVX-512.
    """
    if not isinstance(module, nn.Conv2d):
        return False
    pointwise = max(module.kernel_size) == 1 and max(module.stride) > 1
    return pointwise and module.in_channels // module.groups < 16


def lay_out(module: nn.Module) -> torch.memory_format:
    """Lay the kernels of convolutions out as they are fastest, and return the layout that their images should have.

    With channels last, where oneDNN and cuDNN need not reorder, a step of convolutional models takes 0.73 to 0.98 of its time on
    a CPU; on CUDA it was not measured. Models with a convolution that `spoils_channels_last` keep theirs, and on CUDA those with
    normalisation by groups, which knows the ordinary layout alone there and would reorder before and after.
    """
    cuda = any(parameter.is_cuda for parameter in module.parameters())
    spoilt = any(spoils_channels_last(each) or (cuda and isinstance(each, nn.GroupNorm)) for each in module.modules())
    if spoilt or not has_convolutions(module):
        return torch.contiguous_format
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = torch.empty_like(parameter, memory_format=torch.channels_last).copy_(parameter.data)
    return torch.channels_last
