"""CUDA graphs: what a function of tensors launches is recorded once, and from then on launched as one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Generic, TypeVar

import torch
from torch import Tensor

from vaekit.errors import UsageError

Result = TypeVar("Result")
DEVICES = frozenset({"cuda"})
"""Kinds of devices whose launches can be recorded."""
WARM_UP = 3
"""Ordinary calls before the recording: libraries choose their kernels, optimisers make their state; the last may not wait."""


class Replay(Generic[Result]):
    """A function of tensors on a GPU that is recorded after its first calls, and replayed from then on.

    Python does not run in a replay. So all that differs from call to call must be in the tensors given, or in tensors that stay
    where they are; and the function may not wait for the device. Tensors given are copied to where the recording reads them.

    Args:
        function: Takes tensors, or None where there is nothing; launches the same kernels on each call.
    """

    def __init__(self, function: Callable[..., Result]) -> None:
        self.function = function
        self.calls = 0
        self.given: list[Tensor | None] = []
        self.replay: Callable[[], None] | None = None
        self.result: Result

    def __call__(self, *given: Tensor | None) -> Result:
        """Return what the function does; the next call writes its result to the same place.

        Raises:
            UsageError: The function cannot be recorded.
            ValueError: A tensor has another shape than when it was recorded.
        """
        if self.replay is not None:
            self._copy(given)
        elif self.calls < WARM_UP:
            self.calls += 1
            return rehearse(lambda: self.function(*given), last=self.calls == WARM_UP)
        else:
            copies = {id(tensor): tensor.clone() for tensor in given if tensor is not None}  # one of each: x can be the target
            self.given = [None if tensor is None else copies[id(tensor)] for tensor in given]
            self.result, self.replay = record(lambda: self.function(*self.given))
        self.replay()
        return self.result

    def _copy(self, given: tuple[Tensor | None, ...]) -> None:
        copied: dict[int, Tensor] = {}
        for place, tensor in zip(self.given, given, strict=True):
            if place is None or tensor is None:
                if place is not tensor:
                    raise ValueError("a tensor is given where the recording had none, or none where it had one")
            elif id(place) not in copied:
                if place.shape != tensor.shape:
                    raise ValueError(f"a tensor of shape {tuple(tensor.shape)}; recorded with {tuple(place.shape)}")
                place.copy_(tensor)
                copied[id(place)] = tensor
            elif copied[id(place)] is not tensor:
                raise ValueError("two tensors are given where the recording had one twice")


@cache
def _side() -> torch.cuda.Stream:
    """The stream on which functions are rehearsed and recorded: one a process, as libraries keep memory for each."""
    return torch.cuda.Stream()


def rehearse(function: Callable[[], Result], *, last: bool) -> Result:
    """Call a function on another stream, as CUDA asks of what will be recorded; the current stream waits for it.

    Args:
        function: What will be recorded.
        last: Whether the recording comes next.

    Raises:
        UsageError: It is the last time, and the function waits for the device. A recording that fails would leave torch damaged.
    """
    side = _side()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")  # it soon will be captured
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")  # single precision was asked for
        if last:
            with _explained(), refusing_waits():
                result = function()
        else:
            result = function()
    torch.cuda.current_stream().wait_stream(side)
    return result


def record(function: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
    """Record what a function launches, without running it; return where its result will be, and what runs it.

    Raises:
        UsageError: It does what cannot be recorded, such as waiting for the device.
    """
    graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    of_this_thread = "thread_local"  # others, which read data ahead, may do as they like
    try:
        with _explained(), torch.cuda.graph(graph, stream=_side(), capture_error_mode=of_this_thread):
            result = function()
    finally:
        torch.cuda.set_stream(current)  # which some releases leave to a recording that failed
    return result, graph.replay


@contextmanager
def _explained() -> Iterator[None]:
    """Say what to do where a function cannot be recorded."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise UsageError(
            "the training step cannot be recorded as a CUDA graph",
            given=f"{error.__context__ or error}".partition("\n")[0],  # the end of a failed recording fails too
            expected="components that never look at values on the device, as .item() does",
            remedy="pass --compile off",
        ) from error


@contextmanager
def refusing_waits() -> Iterator[None]:
    """Let whatever waits for the device raise RuntimeError for a while."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        try:
            torch.cuda.set_sync_debug_mode("error")
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


def waits(function: Callable[[], object]) -> bool:
    """Call a function twice; return whether it waits for the device, and so cannot be recorded."""
    function()  # libraries load on first use, and wait
    try:
        with refusing_waits():
            function()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return True
    return False
