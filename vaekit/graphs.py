"""CUDA graphs: what a function of tensors launches is recorded once, and from then on launched as one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from vaekit.errors import UsageError

Result = TypeVar("Result")
DEVICES = frozenset({"cuda"})
"""Kinds of devices whose launches can be recorded."""
WARM_UP = 3
"""Ordinary calls before the recording: libraries choose their kernels, optimisers make their state."""


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
            return rehearse(lambda: self.function(*given))
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


def rehearse(function: Callable[[], Result]) -> Result:
    """Call a function on a stream of its own, as CUDA asks of what will be recorded; the current stream waits for it."""
    own = torch.cuda.Stream()
    own.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(own), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")  # it soon will be captured
        result = function()
    torch.cuda.current_stream().wait_stream(own)
    return result


def record(function: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
    """Record what a function launches, without running it; return where its result will be, and what runs it.

    Raises:
        UsageError: It does what cannot be recorded, such as waiting for the device.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads read data ahead
            result = function()
    except RuntimeError as error:
        raise UsageError(
            "the training step cannot be recorded as a CUDA graph",
            given=f"{error}".partition("\n")[0],
            expected="components that never look at values on the device, as .item() does",
            remedy="pass --compile off",
        ) from error
    return result, graph.replay


def waits(function: Callable[[], object]) -> bool:
    """Call a function twice; return whether it waits for the device, and so cannot be recorded."""
    function()  # libraries load on first use, and wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        function()
    except RuntimeError:
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False
