"""What a trainer asks of its process: memory, threads, and to be told of Ctrl-C and SIGTERM."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, ParamSpec, TypeVar, cast

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = 2**31 - 1
FORMS = 256
"""Forms of one function that a process may compile; after eight of them, torch's own limit, it would refuse or not compile."""

Given = ParamSpec("Given")
Result = TypeVar("Result")


class Interrupted(KeyboardInterrupt):
    """The run was stopped by Ctrl-C or SIGTERM; a checkpoint was saved."""


class Interruption:
    """Whether the user, or what runs the process, has asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Note the first Ctrl-C or SIGTERM, so that the step in hand can end; a second one stops at once.

        One that came too late to stop anything is given again at the end, for the caller's work that follows. What the process
        ignores, as one in the background ignores Ctrl-C, it goes on ignoring.
        """
        late: list[int] = []

        def note(signum: int, frame: FrameType | None) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True
            late.append(signum)

        before: dict[signal.Signals, Any] = {}
        try:
            for signum in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(signum) not in (signal.SIG_IGN, None):  # None: its handler is not Python's to put back
                    before[signum] = signal.signal(signum, note)
        except ValueError:  # not in the main thread: whoever owns it handles signals
            yield
            return
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
        for given in late:
            signal.raise_signal(given)


@contextmanager
def threads(num: int | None) -> Iterator[None]:
    """Compute with ``num`` threads of the CPU: sums depend on their number in the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(num or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for the next step instead of giving it back; return whether it could be told.

    By default blocks above 32 MB go back to the kernel at every ``free``, and are faulted in page by page at the next
    allocation: with the activations of 150×150 images that was 200,000 page faults and a quarter of each step on a CPU.
    It holds for the rest of the process, whose peak memory it does not raise.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library, such as musl
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST) and mallopt(M_TRIM_THRESHOLD, LARGEST))


def compiled(function: Callable[Given, Result], *, whole: bool = False) -> Callable[Given, Result]:
    """Compile a function or a module for the shapes that it is given; a sweep compiles as many forms of it as it has models.

    Args:
        function: What to compile.
        whole: Whether it is an error that a part of it cannot be compiled.
    """
    from torch._dynamo import config

    config.recompile_limit = FORMS
    return cast("Callable[Given, Result]", torch.compile(function, fullgraph=whole, dynamic=False))
