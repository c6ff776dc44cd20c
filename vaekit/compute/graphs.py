"""CUDA graphs: the kernels launched by a function of tensors are captured once and then replayed together."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from vaekit.errors import UsageError
from vaekit.streams import RecordableStreams

Result = TypeVar("Result")
DEVICES = frozenset({"cuda"})
"""The device types that support graph capture."""
WARM_UP = 3
"""The number of warm-up calls before the recording, in which libraries choose kernels and optimisers create their state; the
last call must not synchronise with the device."""


class Replay(Generic[Result]):
    """A GPU function that is recorded as a CUDA graph after its first calls, then replayed.

    A replay runs no Python code. Everything that changes between calls must therefore be in the arguments, in draws from the
    streams, or in tensors at fixed addresses, and the function must not synchronise with the device. Arguments are copied to
    the addresses used by the recording.

    Args:
        function: A function of tuples and lists of tensors that launches the same kernels on each call. Arguments other than
            tensors are fixed to their values in the last call before the recording.
        streams: The random streams that it draws from.
    """

    def __init__(self, function: Callable[..., Result], streams: Sequence[RecordableStreams] = ()) -> None:
        self.function, self.streams = function, streams
        self.calls = 0
        self.given: list[Any] = []
        self.replay: Callable[[], None] | None = None
        self.result: Result

    def __call__(self, number: int, *given: Any) -> Result:
        """Return the result of the function; the next call overwrites it.

        Args:
            number: The step number, which seeds the streams.
            given: The arguments of the function.

        Raises:
            UsageError: The function cannot be recorded.
            ValueError: The arguments do not match those of the recording.
        """
        if self.replay is not None:
            self._copy(given)
        elif self.calls < WARM_UP:
            self.calls += 1
            return warm_up(lambda: self.function(*given), last=self.calls == WARM_UP)
        else:
            kept = tree_map_only(Tensor, torch.clone, given)
            self.given = list(_leaves(kept))
            self.result, self.replay = record(lambda: self.function(*kept), self.streams)
        for streams in self.streams:
            streams.seed_recorded(number)
        self.replay()
        return self.result

    def _copy(self, given: tuple[Any, ...]) -> None:
        places, leaves = self.given, list(_leaves(given))
        if [_form(place) for place in places] != [_form(leaf) for leaf in leaves]:
            forms = [", ".join(map(str, map(_form, each))) for each in (leaves, places)]
            raise ValueError(f"the arguments {forms[0]} do not match the recorded ones, {forms[1]}")
        changing = [number for number, place in enumerate(places) if isinstance(place, Tensor)]
        torch._foreach_copy_([places[number] for number in changing], [leaves[number] for number in changing])


def _leaves(given: Iterable[Any]) -> Iterator[Any]:
    for each in given:
        if isinstance(each, tuple | list):
            yield from _leaves(each)
        else:
            yield each


def _form(leaf: object) -> torch.Size | type:
    return leaf.shape if isinstance(leaf, Tensor) else type(leaf)


@cache
def _side() -> torch.cuda.Stream:
    """Return the stream for warm-up and recording: one per process, since libraries allocate memory per stream."""
    return torch.cuda.Stream()


def warm_up(function: Callable[[], Result], *, last: bool) -> Result:
    """Call a function on a side stream, as CUDA requires before a recording; the current stream waits for it.

    Args:
        function: The function to be recorded.
        last: Whether this is the last call before the recording.

    Raises:
        UsageError: The function synchronises with the device in the last call. This is checked in advance, since a failed
            recording would leave torch in a broken state.
    """
    side = _side()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")  # it soon will be
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")  # single precision was requested
        if last:
            with _explained(), without_synchronisation():
                result = function()
        else:
            result = function()
    torch.cuda.current_stream().wait_stream(side)
    return result


def record(function: Callable[[], Result], streams: Sequence[RecordableStreams]) -> tuple[Result, Callable[[], None]]:
    """Record a function without running it; return the tensors that will hold its result and a function that replays it.

    Args:
        function: The function.
        streams: The random streams that it draws from.

    Raises:
        UsageError: The function cannot be recorded, for example because it synchronises with the device.
    """
    graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    of_this_thread = "thread_local"  # threads that prefetch data are not restricted
    try:
        with _explained(), ExitStack() as recorded:
            for each in streams:
                for generator in recorded.enter_context(each.recorded()):
                    if generator.device.type == "cuda":
                        graph.register_generator_state(generator)
            with torch.cuda.graph(graph, stream=_side(), capture_error_mode=of_this_thread):
                result = function()
    finally:
        torch.cuda.set_stream(current)  # some releases do not restore it after a failed recording
    return result, graph.replay


@contextmanager
def _explained() -> Iterator[None]:
    """Turn errors during a recording into a UsageError with a remedy."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise UsageError(
            "the training step cannot be recorded as a CUDA graph",
            given=f"{error.__context__ or error}".partition("\n")[0],  # ending a failed recording fails as well
            expected="components that never read values from the device, as .item() does",
            remedy="pass --compile off",
        ) from error


@contextmanager
def without_synchronisation() -> Iterator[None]:
    """Raise a RuntimeError on any synchronisation with the device within the context."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        try:
            torch.cuda.set_sync_debug_mode("error")
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


def synchronises(function: Callable[[], object]) -> bool:
    """Call a function twice; return whether it synchronises with the device and so cannot be recorded."""
    function()  # libraries are loaded on first use, which synchronises
    try:
        with without_synchronisation():
            function()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return True
    return False
