"""The memory format of convolutional models."""

from __future__ import annotations

import torch
from torch import nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def has_convolutions(module: nn.Module) -> bool:
    """Whether a module contains a convolution, transposed or not."""
    return any(isinstance(each, CONVOLUTIONS) for each in module.modules())


def spoils_channels_last(module: nn.Module) -> bool:
    """Whether a module is a strided 1×1 convolution with fewer channels than fit into a vector register.

    With channels last, oneDNN writes its gradient past the end of a buffer, which gives wrong gradients or a crash: for 2 to 7
    channels on AVX2 and, according to https://github.com/uxlfoundation/oneDNN/issues/6035, up to 15 on AVX-512.
    """
    if not isinstance(module, nn.Conv2d):
        return False
    pointwise = max(module.kernel_size) == 1 and max(module.stride) > 1
    return pointwise and module.in_channels // module.groups < 16


def lay_out(module: nn.Module) -> torch.memory_format:
    """Convert the kernels of 2D convolutions to the fastest memory format; return the format for the images.

    With channels last, oneDNN and cuDNN need not reorder data: a step of a convolutional model takes 0.73 to 0.98 of the time on
    an AMD EPYC with AVX2, and 0.99 on an Intel Xeon with AMX. Models with a convolution that `spoils_channels_last` keep the
    contiguous format. So do models with group normalisation on CUDA, whose kernels only support the contiguous format: an H100
    trains a residual model at 0.7 of the speed with channels last. Models without it were not measured on CUDA.
    """
    cuda = any(parameter.is_cuda for parameter in module.parameters())
    spoilt = any(spoils_channels_last(each) or (cuda and isinstance(each, nn.GroupNorm)) for each in module.modules())
    if spoilt or not has_convolutions(module):
        return torch.contiguous_format
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = torch.empty_like(parameter, memory_format=torch.channels_last).copy_(parameter.data)
    return torch.channels_last
