"""Atomic file writes: a file is written next to its destination, flushed to disk, and then renamed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from vaekit.errors import UsageError, VaekitError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` on a temporary file in the folder of ``path``, flush the file to disk, and rename it to ``path``.

    A symbolic link stays: the file that it points to is replaced.

    Raises:
        UsageError: ``path`` exists and is not a regular file, such as a folder, a device or a pipe.
        VaekitError: The file cannot be written, for example because the disk is full; an older file stays as it was.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a regular file, and is not replaced", remedy="choose another path")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # respects the user's umask, even if `write` changes it
        write(temporary)
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise VaekitError(
            f"cannot write {path}",
            given=error.strerror or error,
            remedy="free disk space, or choose a place that can be written",
        ) from error
    finally:
        with contextlib.suppress(OSError):  # of a folder that cannot be written, which was reported already
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text atomically in UTF-8."""
    write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))
