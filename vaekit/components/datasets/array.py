"""Images in an array file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import Tensor

from vaekit.data import ImageSource, Splits, TensorImages, split_source
from vaekit.data.arrays import Array, Layout, MappedImages, find_layout, to_images, to_labels
from vaekit.data.parquet import read_parquet
from vaekit.errors import DataError, UsageError
from vaekit.interfaces import Dataset
from vaekit.roles import datasets


@datasets("array")
class ArrayFile(Dataset):
    """Your own images as numbers in one array file: .npy, .npz, .safetensors or .parquet.

    Pixels are bytes from 0 to 255, or floats, whose values are kept. A fourth channel is opacity: the picture is placed on white.
    The split is fixed: it is the same for every seed. The default likelihood, "gaussian", takes pixels of any range.

    Args:
        path: The file.
        key: Name of the images in a file of several arrays; default: the only array that can be images.
        labels: Name of the labels in a file of several arrays; default: "labels" or "label", if present.
        layout: Order of the axes: N images, H height, W width, C channels; default: inferred from the shape.
        validation: Fraction of the images held out for choosing models.
        test: Fraction of the images held out for the final numbers.
        memory_gb: A .npy file larger than this is mapped into memory, and read again every epoch.
    """

    default_likelihood: ClassVar[str] = "gaussian"

    def __init__(
        self,
        *,
        path: str,
        key: str | None = None,
        labels: str | None = None,
        layout: Layout | None = None,
        validation: float = 0.1,
        test: float = 0.1,
        memory_gb: float = 4.0,
    ) -> None:
        self.path, self.key, self.labels, self.layout = Path(path).expanduser(), key, labels, layout
        self.validation, self.test, self.memory_gb = validation, test, memory_gb

    def load(self) -> Splits:
        if not self.path.is_file():
            raise DataError("the file does not exist", given=self.path, expected="a .npy, .npz, .safetensors or .parquet file")
        return split_source(self._source(), self.validation, self.test)

    def _source(self) -> ImageSource:
        if self.path.suffix == ".npy":
            for option in ("key", "labels"):
                if getattr(self, option) is not None:
                    raise UsageError(f"a .npy file holds a single unnamed array, so {option} has no meaning", given=self.path)
            array = _load_numpy(self.path)
            layout = find_layout(array.shape, self.layout)
            if array.nbytes > self.memory_gb * 1e9:
                return MappedImages(self.path, layout)
            return TensorImages(to_images(array, layout))
        arrays = _read(self.path)
        images = _choose(arrays, self.key, self.path)
        return TensorImages(to_images(images, find_layout(images.shape, self.layout)), *self._labels(arrays, len(images)))

    def _labels(self, arrays: dict[str, Array], num: int) -> tuple[Tensor | None, tuple[str, ...] | None]:
        name = self.labels or next((name for name in ("labels", "label") if name in arrays), None)
        if name is None:
            return None, None
        if name not in arrays:
            raise UsageError("the file has no array of that name", given=f"labels {name}", expected=", ".join(arrays))
        return to_labels(arrays[name], num, name)


def _choose(arrays: dict[str, Array], key: str | None, path: Path) -> Array:
    """Return the array called ``key``, or the only one that can be images."""
    if key is None:
        found = [name for name, array in arrays.items() if array.ndim in (3, 4)]
        if len(found) != 1:
            given = f"{path} with " + ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
            problem = "several arrays can be images" if found else "no array in the file can be images"
            remedy = "choose one, for example --dataset.key images"
            if not found:
                remedy = "use --dataset huggingface for encoded pictures in Parquet"
            raise DataError(problem, given=given, remedy=remedy)
        return arrays[found[0]]
    if key not in arrays:
        raise UsageError("the file has no array of that name", given=f"key {key}", expected=", ".join(arrays))
    return arrays[key]


def _read(path: Path) -> dict[str, Array]:
    """Read all arrays of a file by name."""
    if path.suffix == ".npz":
        return _load_npz(path)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:  # with torch, which supports bfloat16
            tensors = load_file(path).items()
        except (OSError, SafetensorError) as error:
            raise DataError("cannot read the file", given=f"{path}: {error}") from error
        return {name: (tensor.float() if tensor.is_floating_point() else tensor).numpy() for name, tensor in tensors}
    if path.suffix == ".parquet":
        return read_parquet(path)
    raise UsageError("unknown file format", given=path, expected="a .npy, .npz, .safetensors or .parquet file")


def _load_numpy(path: Path) -> Array:
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _refused(path, error) from error
    return array


def _load_npz(path: Path) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise _refused(path, error) from error


def _refused(path: Path, error: Exception) -> DataError:
    return DataError(
        "cannot read the file",
        given=f"{path}: {error}",
        expected="arrays of numbers (pickled objects are refused, since they can run code)",
    )
