"""Files of several named arrays: .npz, .safetensors and .parquet. Arrays are read on demand."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.data.parquet import Column, parquet_columns
from vaekit.data.pixels import Array
from vaekit.errors import DataError, UsageError, plain

if TYPE_CHECKING:
    from pathlib import Path


def read_archive(path: Path) -> dict[str, Column]:
    """Return the arrays of a file by name.

    Raises:
        UsageError: The format is not supported, or a required library is not installed.
        DataError: The file is damaged.
    """
    readers = {".npz": _npz, ".safetensors": _safetensors, ".parquet": parquet_columns}
    if path.suffix not in readers:
        raise UsageError("unknown file format", given=path, expected="a .npy, .npz, .safetensors or .parquet file")
    columns = guarded(path, lambda: readers[path.suffix](path))
    return {name: replace(column, load=partial(guarded, path, column.load)) for name, column in columns.items()}


def load_npy(path: Path) -> Array:
    """Map a ``.npy`` file into memory.

    Raises:
        DataError: The file is damaged, or holds Python objects.
    """
    array: Array = guarded(path, lambda: np.load(path, mmap_mode="r", allow_pickle=False))
    return array


def guarded(path: Path, load: Callable[[], Any]) -> Any:
    """Return ``load()``, and turn its errors into a DataError.

    Raises:
        DataError: ``load`` fails.
    """
    try:
        return load()
    except UsageError:
        raise
    except Exception as error:  # numpy, zipfile, zlib and other libraries can raise almost anything for a damaged file
        raise DataError(
            "cannot read the file",
            given=f"{path}: {plain(error) or type(error).__name__}",
            expected="numeric arrays (pickled objects are rejected because they can run code)",
        ) from error


def _npz(path: Path) -> dict[str, Column]:
    def load(name: str) -> Array:
        with np.load(path, allow_pickle=False) as file:
            array: Array = file[name]
        return array

    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if name.endswith(".npy")]
        headers = {name.removesuffix(".npy"): _npy_header(archive, name) for name in members}
    return {name: Column(ndim, text, partial(load, name)) for name, (ndim, text) in headers.items()}


def _npy_header(archive: zipfile.ZipFile, name: str) -> tuple[int, str]:
    """Return the number of axes and the shape from the header of an array in an archive; 0 axes if it is unusable."""
    try:
        with archive.open(name) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
    except Exception:  # reading the array reports it
        return 0, "(damaged)"
    return (0, "(pickled objects)") if dtype.hasobject else (len(shape), str(shape))


def _safetensors(path: Path) -> dict[str, Column]:
    from safetensors import safe_open

    def load(name: str) -> Array:
        with safe_open(path, "pt") as file:  # with torch, which supports bfloat16
            tensor = file.get_tensor(name)
        array: Array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        return array

    with safe_open(path, "pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    return {name: Column(len(shape), str(shape), partial(load, name)) for name, shape in shapes.items()}
