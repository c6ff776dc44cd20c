"""File names, and atomic writes: a file is written next to its destination, flushed to disk, and then renamed."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from vaekit.errors import UsageError, VaekitError, plain

REMEDIES = {
    errno.ENOSPC: "free disk space, or choose another disk",
    errno.EDQUOT: "free disk space, or choose another disk",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another disk",
    errno.EACCES: "check the permissions, or choose another path",
    errno.EPERM: "check the permissions, or choose another path",
    errno.EROFS: "choose a path that can be written",
    errno.ENOENT: "check the path",
    errno.EMFILE: "raise the limit on open files: ulimit -n",
    errno.EIO: "check the disk",
}
"""What to do about an error of the system, by its number."""


def local_path(path: str | Path) -> Path:
    """Return the path of a file or folder that a user names.

    Raises:
        UsageError: It is a URL.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):  # a drive of Windows is one letter
        raise UsageError(f"{path} is a URL", expected="the path of a file or folder on this machine")
    return Path(path)


def cache_folder() -> Path:
    """Return vaekit's folder in the user's cache folder, which need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vaekit"


def printable_path(path: str | Path) -> Path:
    """Return the path of a folder that is to be created, whose name will be printed and written into specs.

    Raises:
        UsageError: It is a URL, or holds a control character.
    """
    if not str(path).isprintable():
        raise UsageError("the name of a folder holds a control character", given=repr(str(path)), remedy="choose another --out")
    return local_path(path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the system within the context into one that names the file that is written.

    Raises:
        VaekitError: The file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise VaekitError(
            f"cannot write {path}",
            given=error.strerror or plain(error),
            remedy=REMEDIES.get(error.errno or 0, "free disk space, or choose a place that can be written"),
        ) from error


def replaceable(path: Path) -> Path:
    """Return the file that writing to a path replaces: the path itself, or what a symbolic link points to.

    Raises:
        UsageError: It is a URL, a link to itself, or exists and is not a regular file, such as a folder, a device or a pipe.
    """
    try:
        target = local_path(path).resolve()
    except (OSError, RuntimeError):  # Python 3.13 raises the first for a loop of links, and only where it is strict
        target = path
    if target.is_symlink() or (target.exists() and not target.is_file()):
        raise UsageError(f"{path} is not a regular file, and is not replaced", remedy="choose another path")
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

    A symbolic link stays: the file that it points to is replaced.

    Raises:
        UsageError: ``path`` cannot be replaced; see `replaceable`.
        VaekitError: The file cannot be written, for example because the disk is full; an older file stays as it was.
    """
    with staged(path) as temporary, writing(path):
        write(temporary)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that processes of this machine left in a run folder when they were killed.

    Those of `write_atomically` name their process. Those of safetensors do not, but only the process that trains a run, which
    calls this, writes such files.
    """
    for path in folder.rglob(".*tmp*"):
        match = re.fullmatch(r"\..+\.(\d+)\.tmp|\.tmp\w{6}", path.name)
        if match is not None and (match[1] is None or not _runs(int(match[1]))):
            path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Whether a process of this machine runs; on Windows, which has no harmless signal to ask by, True."""
    try:
        if os.name != "nt":
            os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def file_names(names: Sequence[str], *, taken: Collection[str] = ()) -> list[str]:
    """Return a file name for each of several names: allowed on every system, and distinct even where case is ignored.

    A name of letters, digits, ``-``, ``_`` and inner dots stays as it is.

    Args:
        names: The names, all different.
        taken: File names that exist already in the same folder.

    Example:
        >>> file_names(["cat", "Cat", "C++", "C#", "con"])
        ['cat', 'Cat-2', 'C__', 'C_', '_con']
    """
    plain = {name: _plain(name) for name in names}
    used = {_folded(name) for name in taken}
    result = {}
    for name in sorted(names, key=lambda name: plain[name] != name):  # those that can stay as they are come first
        candidate = plain[name]
        for number in itertools.count(2):
            if _folded(candidate) not in used:
                break
            candidate = f"{plain[name]}-{number}"
        used.add(_folded(candidate))
        result[name] = candidate
    return [result[name] for name in names]


def _plain(name: str) -> str:
    """Return a name with `_` for what some system does not allow in a file name; at most 60 characters, 240 bytes."""
    plain = re.sub(r"[^\w.-]", "_", unicodedata.normalize("NFC", name))[:60].strip(".") or "_"
    return f"_{plain}" if re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", plain, re.IGNORECASE) else plain


def _folded(name: str) -> str:
    """Return what two file names have in common that some system takes for one."""
    return unicodedata.normalize("NFC", name.casefold())


def write_text(path: Path, text: str) -> None:
    """Write text atomically in UTF-8."""
    write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))
