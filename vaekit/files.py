"""File names and atomic writes: a file is written next to its destination, flushed to disk, and then renamed."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import IO

from vaekit.errors import UsageError, VaekitError, plain

REMEDIES = {
    errno.ENOSPC: "free disk space, or choose another disk",
    errno.EDQUOT: "free disk space, or choose another disk",
    errno.EFBIG: "raise the file size limit (ulimit -f), or choose another disk",
    errno.EACCES: "check the permissions, or choose another path",
    errno.EPERM: "check the permissions, or choose another path",
    errno.EROFS: "choose a writable path",
    errno.ENOENT: "check the path",
    errno.EMFILE: "raise the limit on open files: ulimit -n",
    errno.EIO: "check the disk",
}
"""The remedies of system errors, by error number."""


BLOCK = 2**16
"""The number of bytes that `lines_from_end` reads at once."""


def local_path(path: str | Path) -> Path:
    """Return the path of a file or folder given by the user.

    Raises:
        UsageError: It is a URL.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):  # Windows drives have a single letter
        raise UsageError(f"{path} is a URL", expected="the path of a file or folder on this machine")
    return Path(path)


def cache_folder() -> Path:
    """Return vaekit's folder in the user's cache folder; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vaekit"


def printable_path(path: str | Path) -> Path:
    """Return the path of a folder to create; its name will be printed and written into specs.

    Raises:
        UsageError: It is a URL or contains a control character.
    """
    if not str(path).isprintable():
        raise UsageError("the folder name contains a control character", given=repr(str(path)), remedy="choose another --out")
    return local_path(path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a system error within the context into an error that names the file being written.

    Raises:
        VaekitError: The file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise VaekitError(
            f"cannot write {path}",
            given=error.strerror or plain(error),
            remedy=REMEDIES.get(error.errno or 0, "free disk space, or choose a writable path"),
        ) from error


def replaceable(path: Path) -> Path:
    """Return the file that a write to a path would replace: the path itself, or the target of a symbolic link.

    Raises:
        UsageError: It is a URL, a link to itself, or an existing folder, device, pipe or other irregular file.
    """
    try:
        target = local_path(path).resolve()
    except (OSError, RuntimeError):  # from Python 3.13, OSError for a loop of links, if strict
        target = path
    if target.is_symlink() or (target.exists() and not target.is_file()):
        raise UsageError(f"{path} is not a regular file and will not be replaced", remedy="choose another path")
    return target


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Give a temporary file in the folder of ``path``; after the context, flush it to disk and rename it to ``path``.

    A symbolic link stays: the file that it points to is replaced. If the context fails, an older file stays as it was, and
    nothing is left of the new one. Within the context, the caller guards its writes with `writing`.

    Raises:
        UsageError: ``path`` cannot be replaced; see `replaceable`.
        VaekitError: The file cannot be written.
    """
    path = replaceable(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            temporary.touch()
            mode = temporary.stat().st_mode  # respects the user's umask, even if writing changes it
        yield temporary
        with writing(path):
            temporary.chmod(mode)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):  # of a folder that cannot be written, which was reported already
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` on a temporary file in the folder of ``path``, flush the file to disk, and rename it to ``path``.

    A symbolic link is kept; its target is replaced.

    Raises:
        UsageError: ``path`` cannot be replaced; see `replaceable`.
        VaekitError: The file cannot be written, for example because the disk is full; an existing file is left unchanged.
    """
    with staged(path) as temporary, writing(path):
        write(temporary)


def lines_from_end(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file from the last to the first, each with its position; earlier lines than those used are not read.

    The last line may lack its line break.
    """
    position, rest = file.seek(0, os.SEEK_END), b""
    while position:
        size = min(max(BLOCK, len(rest)), position)  # doubled within a long line, which would otherwise be copied many times
        position = file.seek(position - size)
        content = file.read(size) + rest
        end, lines = position + len(content), content.splitlines(keepends=True)
        rest = lines.pop(0) if position else b""
        for line in reversed(lines):
            end -= len(line)
            yield end, line


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that killed processes of this machine left in a run folder.

    Files of `write_atomically` name their process. Those of safetensors do not, but are only written by the process that trains
    the run, which is the caller.
    """
    for path in folder.rglob(".*tmp*"):
        match = re.fullmatch(r"\..+\.(\d+)\.tmp|\.tmp\w{6}", path.name)
        if match is not None and (match[1] is None or not _runs(int(match[1]))):
            path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Whether a process of this machine is running; True on Windows, which has no harmless signal for it."""
    try:
        if os.name != "nt":
            os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def file_names(names: Sequence[str], *, taken: Collection[str] = ()) -> list[str]:
    """Return a file name for each name: portable, and unique even on case-insensitive file systems.

    Names of letters, digits, ``-``, ``_`` and inner dots are unchanged.

    Args:
        names: The names, all different.
        taken: File names already in use in the same folder.

    Example:
        >>> file_names(["cat", "Cat", "C++", "C#", "con"])
        ['cat', 'Cat-2', 'C__', 'C_', '_con']
    """
    plain = {name: _plain(name) for name in names}
    used = {_folded(name) for name in taken}
    result = {}
    for name in sorted(names, key=lambda name: plain[name] != name):  # names that can be kept come first
        candidate = plain[name]
        for number in itertools.count(2):
            if _folded(candidate) not in used:
                break
            candidate = f"{plain[name]}-{number}"
        used.add(_folded(candidate))
        result[name] = candidate
    return [result[name] for name in names]


def _plain(name: str) -> str:
    """Replace characters that are not portable in file names by `_`; truncate to 60 characters and 240 bytes."""
    plain = re.sub(r"[^\w.-]", "_", unicodedata.normalize("NFC", name))[:60].strip(".") or "_"
    return f"_{plain}" if re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", plain, re.IGNORECASE) else plain


def _folded(name: str) -> str:
    """Return a key that is equal for file names that some system treats as the same."""
    return unicodedata.normalize("NFC", name.casefold())


def write_text(path: Path, text: str) -> None:
    """Write text atomically in UTF-8."""
    write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))
