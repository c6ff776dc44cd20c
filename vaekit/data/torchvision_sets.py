"""Datasets downloaded by torchvision: storage, download and MNIST's file format."""

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
from vaekit.errors import DataError, plain
from vaekit.files import cache_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor


def data_root(root: str | None) -> Path:
    """Return the folder of the datasets: ``root``, else VAEKIT_DATA, else vaekit's folder in the user's cache."""
    chosen = root or os.environ.get("VAEKIT_DATA")
    return Path(chosen).expanduser() if chosen else cache_folder()


def ensure_present(name: str, root: Path, files: Sequence[str], *, download: bool, fetch: Callable[[str], object]) -> None:
    """Ensure that the files of a dataset exist; download them if allowed.

    Files are downloaded to a temporary folder and moved once complete, so a failed download leaves nothing behind.

    Args:
        name: Name of the dataset, for error messages.
        root: Folder of the datasets.
        files: Paths relative to ``root``; ``.gz`` may be added to a file's name.
        download: Whether downloading is allowed.
        fetch: Downloads the dataset into the folder that it is given.

    Raises:
        DataError: Files are missing and cannot be downloaded.
    """
    missing = [path for path in files if not (root / path).exists() and not (root / f"{path}.gz").exists()]
    if not missing:
        return
    reason = "downloading is disabled"
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
            reason = f"the download failed: {plain(error)}"
        else:
            return
    raise DataError(
        f"files of the dataset {name!r} are missing",
        given=f"no {missing[0]} in {root}; {reason}",
        expected=", ".join(files),
        remedy="put the files there, or set --data-root or VAEKIT_DATA to the folder that contains them; "
        "`--dataset digits` needs no files",
    )


@contextlib.contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Set a timeout for stalled connections, since torchvision has none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def read_idx(file: Path) -> Tensor:
    """Read a file in MNIST's idx format as bytes; it may be compressed, with ``.gz`` appended to its name.

    Raises:
        DataError: The file has another format or is truncated.
    """
    compressed = file.with_name(f"{file.name}.gz")
    try:
        content = file.read_bytes() if file.exists() else gzip.decompress(compressed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError("cannot read a data file", given=f"{file}: {error}", remedy="download it again") from error
    # Two zero bytes, 0x08 for unsigned bytes, the number of dimensions, then each dimension as a big-endian 32-bit integer.
    ndim = content[3] if len(content) > 3 and content[:3] == b"\x00\x00\x08" else 0
    shape = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(ndim)]
    data = np.frombuffer(content, np.uint8)[4 + 4 * ndim :]
    if ndim == 0 or data.size != np.prod(shape):
        raise DataError("a data file is damaged", given=file, expected="an idx file", remedy="download it again")
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
    """Read a dataset in MNIST's format.

    Args:
        name: Name of the dataset, for errors.
        files: Training images and labels, test images and labels, relative to the folder of the datasets.
        root: Folder of the datasets; default: see `data_root`.
        validation: Number of training images to hold out, taken from the end.
        download: Whether downloading is allowed.
        fetch: Downloads the dataset into the folder that it is given.
        class_names: The name of each label.
        first_label: The lowest label in the files, which becomes 0.
        transposed: Whether the images are transposed in the files.

    Raises:
        DataError: Files are missing and cannot be downloaded, or are damaged.
    """
    folder = data_root(root)
    ensure_present(name, folder, files, download=download, fetch=fetch)

    def read(images_file: str, labels_file: str) -> TensorImages:
        images, labels = read_idx(folder / images_file), read_idx(folder / labels_file)
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            given = f"{folder / images_file}: {tuple(images.shape)}, {folder / labels_file}: {tuple(labels.shape)}"
            raise DataError("images and labels do not match", given=given, remedy="download the files again")
        images = images.transpose(1, 2) if transposed else images
        return TensorImages(images.unsqueeze(1), labels.long() - first_label, class_names)

    return hold_out(read(*files[:2]), read(*files[2:]), validation)


def mnist_files(folder: str) -> list[str]:
    """Return the names of the four files of MNIST or a replacement."""
    return [f"{folder}/raw/{part}-{what}" for part in ("train", "t10k") for what in ("images-idx3-ubyte", "labels-idx1-ubyte")]
