"""Atomic writes of several files: they appear together or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vaekit.errors import ExportError


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield the path of a file to write in a temporary folder beside ``path``; on success, move the folder's files into place.

    On an error, nothing remains and existing files are unchanged. ``path`` itself is moved last.

    Raises:
        ExportError: The destination cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise ExportError(f"cannot write {path}", given=error.strerror, remedy="choose another path") from None
    try:
        yield folder / path.name
        written = sorted(folder.iterdir(), key=lambda file: file.name == path.name)
        for file in written:
            file.replace(path.with_name(file.name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
