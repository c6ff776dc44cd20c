"""What this machine computes on."""

from __future__ import annotations

import torch

from vaekit.errors import UsageError


def choose_device(name: str) -> str:
    """Return a kind of device that is there; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        UsageError: The device asked for is not there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, there in available.items() if there)
    if not available.get(name):
        raise UsageError(
            f"this machine offers torch no {name} device",
            given=f"--device {name}, torch {torch.__version__}",
            expected=f"one of {', '.join(device for device in ('cpu', 'cuda', 'mps') if available[device])}",
            remedy="--device auto takes the best there is",
        )
    return name


def choose_precision(name: str, device: str) -> str:
    """Return an arithmetic; ``auto`` takes bf16 on a CUDA device that has it, and fp32 elsewhere."""
    if name != "auto":
        return name
    return "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def has_cpp_compiler() -> bool:
    """Whether `torch.compile` finds what it needs to make CPU code."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True
