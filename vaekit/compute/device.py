"""The devices, precisions and compilers available on this machine."""

from __future__ import annotations

import torch

from vaekit.errors import UsageError


def choose_device(name: str) -> str:
    """Return an available device type; ``auto`` prefers CUDA, then MPS, then the CPU.

    Raises:
        UsageError: The requested device is not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, there in available.items() if there)
    if not available.get(name):
        raise UsageError(
            f"torch found no {name} device on this machine",
            given=f"--device {name}, torch {torch.__version__}",
            expected=f"one of {', '.join(device for device in ('cpu', 'cuda', 'mps') if available[device])}",
            remedy="use --device auto for the best available device",
        )
    return name


def has_bf16(device: str) -> bool:
    """Whether a device multiplies matrices of bfloat16 faster than those of float32: a CPU, if it has AMX."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device == "cpu" and bool(torch.cpu._is_amx_tile_supported())


def has_cpp_compiler() -> bool:
    """Whether `torch.compile` finds the C++ compiler that it needs for CPU code."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True
