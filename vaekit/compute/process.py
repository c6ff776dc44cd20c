"""Settings of the training process: memory, threads, and the handling of Ctrl-C and SIGTERM."""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, ParamSpec, TypeVar, cast

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = 2**31 - 1
FORMS = 256
"""How often a process may recompile a function for new shapes; torch's default limit is eight."""

Given = ParamSpec("Given")
Result = TypeVar("Result")


HANGUP = getattr(signal, "SIGHUP", None)
"""The signal sent when the terminal is closed; absent on Windows."""
SIGNALS = tuple(signal.Signals(signum) for signum in (signal.SIGINT, signal.SIGTERM, HANGUP) if signum is not None)


class Interrupted(KeyboardInterrupt):
    """The run was stopped by Ctrl-C, SIGTERM or SIGHUP; a checkpoint was saved."""


class Interruption:
    """A request to stop, by the user or the system."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Record the first Ctrl-C, SIGTERM or SIGHUP, so that the current step can finish; a second one stops immediately.

        If the block completes despite a signal, the signal is raised again on exit for the caller to handle. Ignored signals,
        such as Ctrl-C in a background process, remain ignored.
        """
        late: list[int] = []

        def note(signum: int, frame: FrameType | None) -> None:
            if signum == HANGUP:
                _leave_terminal()
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True
            late.append(signum)

        before: dict[signal.Signals, Any] = {}
        try:
            for signum in SIGNALS:
                if signal.getsignal(signum) not in (signal.SIG_IGN, None):  # None: Python cannot restore its handler
                    before[signum] = signal.signal(signum, note)
        except ValueError:  # not the main thread, which handles signals
            yield
            return
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
        for given in late:
            signal.raise_signal(given)


def _leave_terminal() -> None:
    """Discard further output, since writing to a closed terminal fails."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        with suppress(OSError):  # it is not open
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                os.dup2(nowhere, descriptor)
    os.close(nowhere)


@contextmanager
def threads(num: int | None) -> Iterator[None]:
    """Use ``num`` CPU threads within the context; the last bit of a sum depends on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(num or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory instead of returning it to the system; return whether this succeeded.

    By default, ``free`` returns blocks above 32 MB to the kernel, and the next allocation faults them in page by page. For
    activations of 150×150 images, this caused 200,000 page faults and took a quarter of each step on a CPU. The setting remains
    in effect until the process ends and does not increase its peak memory.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library, such as musl
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST) and mallopt(M_TRIM_THRESHOLD, LARGEST))


def compiled(function: Callable[Given, Result], *, whole: bool = False) -> Callable[Given, Result]:
    """Compile a function or module for fixed input shapes; in a sweep, once per model.

    Args:
        function: The function or module to compile.
        whole: Whether to raise an error if it cannot be compiled as a whole.
    """
    from torch._dynamo import config

    config.recompile_limit = FORMS
    return cast("Callable[Given, Result]", torch.compile(function, fullgraph=whole, dynamic=False))
