"""The machine of a measurement: its description, its peak performance, and its timers."""

from __future__ import annotations

import contextlib
import math
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch

from vaekit._version import __version__

Result = TypeVar("Result")
PACKAGE = Path(__file__).parents[1]


def environment(threads: int) -> dict[str, Any]:
    """Return the environment of a measurement: processor, GPU, threads, versions and, in a checkout of vaekit, the commit."""
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "processor": processor(),
        **gpu,
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {
            "vaekit": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "onnxruntime": metadata.version("onnxruntime"),
        },
        "commit": commit(),
    }


def processor() -> str:
    """Return the name of the processor, as far as the system reports it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def commit() -> str | None:
    """Return the commit if vaekit runs from a checkout, with ``+`` appended if files have changed; None otherwise."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(PACKAGE), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def timed(function: Callable[[], Result], device: torch.device, calls: int = 1) -> tuple[float, Result]:
    """Call a function repeatedly; return the milliseconds per call, measured with events on CUDA, and the last result."""
    if device.type == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        for _ in range(calls - 1):
            function()
        result = function()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / calls, result
    began = time.perf_counter()
    for _ in range(calls - 1):
        function()
    result = function()
    if device.type == "mps":
        torch.mps.synchronize()
    return 1e3 * (time.perf_counter() - began) / calls, result


def calls_in_a_row(device: torch.device) -> int:
    """Return the number of calls to time together: several on a GPU, so that Python runs ahead of the device as in real use."""
    return 1 if device.type == "cpu" else 20


def repeated(function: Callable[[], object], device: torch.device, seconds: float) -> list[float]:
    """Call a function for some seconds, after two warm-up calls; return the milliseconds per call for each round."""
    for _ in range(2):
        function()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        times.append(timed(function, device, calls_in_a_row(device))[0])
    return times


def busy(function: Callable[[], object], calls: int = 20) -> float:
    """Return the milliseconds per call during which the GPU computes or copies, according to torch's profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        timed(function, torch.device("cuda"), calls)
    events = [event for event in profile.events() if event.device_type.name == "CUDA"]
    return covered((event.time_range.start, event.time_range.end) for event in events) / 1e3 / calls


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return the total length of the union of intervals."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def matrix_peak(device: torch.device, precision: str) -> float:
    """Measure the floating-point operations per second of a large matrix product."""
    size = 8192 if device.type == "cuda" else 512
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    times = repeated(lambda: torch.nn.functional.linear(left, right), device, 0.5)  # as networks call it
    return 2 * size**3 / (1e-3 * min(times))


def memory_bandwidth(device: torch.device) -> float:
    """Measure the bytes per second, read and written, when copying an array larger than the caches."""
    size = 2**30 if device.type == "cuda" else 2**27
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = repeated(lambda: target.copy_(source), device, 0.3)
    return 2 * size / (1e-3 * min(times))


def forget_peak_memory(device: torch.device) -> None:
    """Reset the measurement of `peak_memory`, if the system supports it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", "ascii")


def peak_memory(device: torch.device) -> int | None:
    """Return the peak memory since `forget_peak_memory` in bytes; None if the system does not report it.

    On CUDA this is the memory of tensors, elsewhere that of the whole process; on macOS it is the peak since the process started.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
