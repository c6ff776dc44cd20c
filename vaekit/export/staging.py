"""Atomic writes of several files: they appear together or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vaekit.errors import ExportError, UsageError
from vaekit.files import replaceable, writing


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield the path of a file to write in a temporary folder beside ``path``; on success, move the folder's files into place.

    On an error, nothing remains and existing files are unchanged. ``path`` itself is moved last. A symbolic link stays: the file
    that it points to is replaced.

    Raises:
        ExportError: The destination cannot be written, or is not a regular file.
    """
    try:
        path = replaceable(path)
        new = [parent for parent in path.parents if not parent.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except UsageError as error:
        raise ExportError(error.message, remedy=error.remedy) from None
    except OSError as error:
        raise ExportError(f"cannot write {path}", given=error.strerror, remedy="choose another path") from None
    try:
        with writing(path):
            yield folder / path.name
            written = sorted(folder.iterdir(), key=lambda file: file.name == path.name)
            for file in written:
                file.replace(replaceable(path.with_name(file.name)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in new:
            with suppress(OSError):  # it holds what was written
                parent.rmdir()
