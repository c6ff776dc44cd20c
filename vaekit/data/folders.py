"""Folders of image files: finding images and checking that they can be read."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import numpy as np

from vaekit.data.images import in_threads
from vaekit.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaekit.data.images import EncodedImage, ImageReader

SUFFIXES = frozenset(
    ".png .apng .jpg .jpeg .jpe .jfif .jp2 .webp .avif .bmp .dib .gif .tif .tiff .pbm .pgm .ppm .pnm .tga .ico".split()  # noqa: SIM905
)
"""The suffixes of image files, in lower case."""

FRAMES = frozenset({".apng", ".gif", ".tif", ".tiff", ".webp"})
"""The suffixes of files that may hold several frames or pages."""
OnBad = Literal["stop", "skip"]
"""Whether to stop at unreadable files or to skip them with a warning."""


class FilesIn(Sequence[Path]):
    """Files in a folder, made on access from one text: a million take 25 MB instead of 400, which processes share.

    Args:
        folder: The folder.
        names: Their paths relative to it, with slashes.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self._text = folder, os.fsencode("".join(f"{name}\0" for name in names))
        self._ends = np.flatnonzero(np.frombuffer(self._text, np.uint8) == 0)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, i: int, /) -> Path: ...
    @overload
    def __getitem__(self, i: slice, /) -> Sequence[Path]: ...
    def __getitem__(self, i: int | slice, /) -> Path | Sequence[Path]:
        place = range(len(self))[i]
        if isinstance(place, range):
            return [self[each] for each in place]
        begin = self._ends[place - 1] + 1 if place else 0
        return self.folder / os.fsdecode(self._text[begin : self._ends[place]])

    @property
    def names(self) -> list[str]:
        """Their paths relative to the folder, with slashes."""
        return os.fsdecode(self._text).split("\0")[:-1]


def find_images(folder: Path, *, on_bad: OnBad = "stop") -> FilesIn:
    """Return the image files in a folder and its subfolders, sorted by relative path; symbolic links are followed.

    Hidden files are skipped silently, hidden folders and other files with a warning.

    Args:
        folder: The folder.
        on_bad: Whether to stop at an unreadable folder or to skip it with a warning.

    Raises:
        DataError: The folder does not exist, contains no images, or contains an unreadable folder.
    """
    if not folder.is_dir():
        raise DataError("the folder of images does not exist", given=folder, expected="an existing folder")
    closed: list[str] = []
    hidden: list[str] = []
    found: list[str] = []
    others: Counter[str] = Counter()
    endings = tuple(SUFFIXES)
    for name in sorted(_names_in(folder, closed, hidden)):
        if name.lower().endswith(endings):
            found.append(name)
        else:
            others[Path(name).suffix or "without a suffix"] += 1
    if closed:
        what = f"{_several(len(closed), 'folder')} in {folder} cannot be read"
        if on_bad == "stop":
            remedy = "change their permissions; --dataset folder skips them with --dataset.on-bad-image skip"
            raise DataError(what, given=_first(closed), remedy=remedy)
        warnings.warn(f"{what}: {_first(closed)}", stacklevel=2)
    if others:
        counts = _first([f"{count:,} {suffix}" for suffix, count in others.most_common()])
        warnings.warn(f"{folder}: files that are not images are skipped: {counts}", stacklevel=2)
    if hidden:
        warnings.warn(f"{_several(len(hidden), 'hidden folder')} in {folder} skipped: {_first(sorted(hidden))}", stacklevel=2)
    if not found:
        raise DataError("the folder contains no images", given=folder, expected=f"files {' '.join(sorted(SUFFIXES))}")
    return FilesIn(folder, found)


def _names_in(
    folder: Path, closed: list[str], hidden: list[str], prefix: str = "", above: tuple[tuple[int, int], ...] = ()
) -> Iterator[str]:
    """Yield the files in a folder and its subfolders as relative paths with slashes, following symbolic links.

    Args:
        folder: The folder.
        closed: Receives the unreadable folders.
        hidden: Receives the names of hidden folders, which are skipped.
        prefix: What each path begins with.
        above: The parent folders, to which links may lead back.
    """
    try:
        status = folder.stat()
        identity = status.st_dev, status.st_ino
        entries = [] if identity in above else list(os.scandir(folder))
    except OSError:
        closed.append(str(folder))
        return
    for entry in entries:
        if entry.name.startswith("."):
            hidden += [entry.name] if entry.is_dir() else []
        elif entry.is_dir():
            yield from _names_in(Path(entry.path), closed, hidden, f"{prefix}{entry.name}/", (*above, identity))
        else:
            yield prefix + entry.name


def warn_of_frames(files: Sequence[EncodedImage]) -> None:
    """Warn about images with several frames or pages, of which only the first is read.

    Args:
        files: The images; files whose suffix is not in `FRAMES` are not opened.
    """
    from PIL import Image

    possible = [file for file in files if not isinstance(file, Path) or file.suffix.lower() in FRAMES]

    def animated(i: int) -> bool:
        try:
            with Image.open(possible[i]) as image:
                return bool(getattr(image, "is_animated", False))
        except Exception:  # reading the file reports it
            return False

    several = [file for file, is_animated in zip(possible, in_threads(animated, len(possible)), strict=True) if is_animated]
    if several:
        what = f"{len(several)} of {_several(len(files), 'image')} have several frames or pages, of which only the first is read"
        warnings.warn(f"{what}: {_first(several)}", stacklevel=2)


def readable_images(files: FilesIn, reader: ImageReader) -> FilesIn:
    """Read every file; return those that are complete, and warn about the others.

    Raises:
        DataError: No file can be read.
    """

    def reads(i: int) -> bool:
        try:
            reader(files[i])
        except DataError:
            return False
        return True

    good: list[str] = []
    bad: list[Path] = []
    for name, ok in zip(files.names, in_threads(reads, len(files)), strict=True):
        if ok:
            good.append(name)
        else:
            bad.append(files.folder / name)
    if bad:
        warnings.warn(
            f"{len(bad)} of {_several(len(files), 'image')} cannot be read and are skipped: {_first(bad)}", stacklevel=2
        )
    if not good:
        raise DataError("none of the images in the folder can be read", given=f"{len(files)} files")
    return FilesIn(files.folder, good)


def _several(num: int, noun: str) -> str:
    return f"{num:,} {noun}{'s' * (num != 1)}"


def _first(names: Sequence[object]) -> str:
    return ", ".join(map(str, names[:3])) + (", …" if len(names) > 3 else "")
