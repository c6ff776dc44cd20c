"""Data sets that torchvision downloads: where they lie, how they get there, and the reader of MNIST's format."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import os
import socket
import sys
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from vaekit.data.sources import Splits, TensorImages, hold_out
from vaekit.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor


def data_root(root: str | None) -> Path:
    """Return the folder of the data sets: ``root``, else VAEKIT_DATA, else vaekit's folder in the user's cache."""
    chosen = root or os.environ.get("VAEKIT_DATA")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vaekit"


def provide(name: str, root: Path, wanted: Sequence[str], *, download: bool, fetch: Callable[[str], object]) -> None:
    """Make sure that the files of a data set are there; download them where that is allowed.

    A download goes to a folder of its own and is moved when it is whole, so a broken one leaves nothing.

    Args:
        name: Name of the data set, for people.
        root: Folder of the data sets.
        wanted: Paths below ``root``; a file may also be there with ``.gz`` added.
        download: Whether a download may be tried.
        fetch: Downloads the set below the folder that it is given.

    Raises:
        DataError: The files are not there, and cannot be had.
    """
    missing = [path for path in wanted if not (root / path).exists() and not (root / f"{path}.gz").exists()]
    if not missing:
        return
    reason = "downloading is switched off"
    if download:
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as scratch:
                with contextlib.redirect_stdout(sys.stderr), _timeout(30):
                    fetch(scratch)
                for file in [file for file in Path(scratch).rglob("*") if file.is_file()]:
                    target = root / file.relative_to(scratch)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    file.replace(target)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            reason = f"the download failed: {' '.join(str(error).split())[:300]}"
        else:
            return
    raise DataError(
        f"the data set {name} is not on this machine",
        given=f"no {missing[0]} in {root}; {reason}",
        expected=", ".join(wanted),
        remedy="put the files there, or name the folder that holds them by --data-root or VAEKIT_DATA; "
        "`--dataset digits` needs no files",
    )


@contextlib.contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Limit how long a connection may stall; torchvision sets no limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def read_idx(file: Path) -> Tensor:
    """Read a file of MNIST's idx format, bytes of any shape, packed (``.gz`` added to its name) or not.

    Raises:
        DataError: It is not such a file, or is cut short.
    """
    packed = file.with_name(f"{file.name}.gz")
    try:
        content = file.read_bytes() if file.exists() else gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError("cannot read a data file", given=f"{file}: {error}", remedy="fetch the file again") from error
    # Two zero bytes, 0x08 for unsigned bytes, the number of dimensions, then each as a big-endian 32-bit number.
    ndim = content[3] if len(content) > 3 and content[:3] == b"\x00\x00\x08" else 0
    shape = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(ndim)]
    data = np.frombuffer(content, np.uint8)[4 + 4 * ndim :]
    if ndim == 0 or data.size != np.prod(shape):
        raise DataError("a data file is damaged", given=file, expected="an idx file", remedy="fetch the file again")
    return torch.from_numpy(data.reshape(shape).copy())


def load_idx_set(
    name: str,
    *,
    files: Sequence[str],
    root: str | None,
    validation: int,
    download: bool,
    fetch: Callable[[str], object],
    class_names: tuple[str, ...],
    first_label: int = 0,
    transposed: bool = False,
) -> Splits:
    """Read a data set of MNIST's family.

    Args:
        name: Name of the data set, for people.
        files: Training images and labels, test images and labels, below the root.
        root: Folder of the data sets.
        validation: Number of training images held out, the last ones.
        download: Whether a download may be tried.
        fetch: Downloads the set below the folder that it is given.
        class_names: The name of each label.
        first_label: The lowest label that the files use; labels are counted from it.
        transposed: Whether the files hold pictures with rows and columns exchanged.
    """
    folder = data_root(root)
    provide(name, folder, files, download=download, fetch=fetch)

    def read(images_file: str, labels_file: str) -> TensorImages:
        images, labels = read_idx(folder / images_file), read_idx(folder / labels_file)
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            given = f"{folder / images_file}: {tuple(images.shape)}, {folder / labels_file}: {tuple(labels.shape)}"
            raise DataError("images and labels do not fit each other", given=given, remedy="fetch the files again")
        images = images.transpose(1, 2) if transposed else images
        return TensorImages(images.unsqueeze(1), labels.long() - first_label, class_names)

    return hold_out(read(*files[:2]), read(*files[2:]), validation)


def mnist_files(folder: str) -> list[str]:
    """The four files as MNIST and its replacements name them."""
    return [f"{folder}/raw/{part}-{what}" for part in ("train", "t10k") for what in ("images-idx3-ubyte", "labels-idx1-ubyte")]
