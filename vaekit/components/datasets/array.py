"""Examples of any shape in an array file."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from vaekit.data import ImageSource, Splits, TensorImages
from vaekit.data.archives import load_npy, read_archive
from vaekit.data.arrays import Layout, MappedImages, find_layout, holds_pixels, optional_labels, to_examples
from vaekit.data.parquet import Column
from vaekit.data.pixels import Range, choose_range
from vaekit.data.sources import chosen_splits, sample_of, split_of, with_own_splits
from vaekit.errors import DataError, UsageError
from vaekit.interfaces import Dataset
from vaekit.roles import datasets

LABELS = ("labels", "label", "y", "targets")
"""Names under which labels are found by default."""


@datasets("array")
class ArrayFile(Dataset):
    """Your own images, signals, volumes or table, as arrays in a .npy, .npz, .safetensors or .parquet file.

    Pixels of images and volumes are bytes from 0 to 255, 16-bit integers, which are converted to bytes, or floats, which are
    kept as they are, like all values of signals and tables. A fourth image channel is opacity: the picture is composited onto
    white. NaN marks a missing value: see `--missing`. The default likelihood, "gaussian", expects values in [0, 1], or any
    values with `--likelihood.link identity`. If array names contain a split (`train_images`, `x_test`), these splits are used;
    otherwise the data are split in the same way for every seed.

    Args:
        path: The file.
        key: Name of the array of examples, without the split, if the file holds several; default: the only candidate.
        labels: Name of the array of labels, without the split; default: "labels", "label", "y" or "targets", if present.
        layout: Order of the axes: N examples, F features of a table, C channels, L length of signals, D depth, H height, W width;
            default: NF, NHW, or the one with 1, 3 or 4 channels.
        range: The values of black and white, for example -1,1; pixels are rescaled to [0, 1]. Default: the range of the integer
            type in images and volumes; other values are kept as they are.
        validation: Fraction of the training images held out for model selection; default: the file's own split, else 0.1.
        test: Fraction of the training images held out for the final evaluation; default: the file's own split, else 0.1.
        memory_gb: Size in GB above which a .npy file is memory-mapped and read again every epoch.
    """

    default_likelihood: ClassVar[str] = "gaussian"
    suffixes = (".npy", ".npz", ".safetensors", ".parquet")

    def __init__(
        self,
        *,
        path: str,
        key: str | None = None,
        labels: str | None = None,
        layout: Layout | None = None,
        range: Range | None = None,  # noqa: A002
        validation: float | None = None,
        test: float | None = None,
        memory_gb: float = 4.0,
    ) -> None:
        self.path, self.key, self.labels, self.layout, self.range = Path(path).expanduser(), key, labels, layout, range
        self.validation, self.test, self.memory_gb = validation, test, memory_gb

    def load(self) -> Splits:
        return with_own_splits(self.stored(), self.validation, self.test)

    def stored(self) -> Mapping[str, ImageSource]:
        if not self.path.is_file():
            raise DataError("the file does not exist", given=self.path, expected="a .npy, .npz, .safetensors or .parquet file")
        return {"train": self._npy()} if self.path.suffix == ".npy" else self._archive()

    def _npy(self) -> ImageSource:
        for option in ("key", "labels"):
            if getattr(self, option) is not None:
                raise UsageError(f"a .npy file holds a single unnamed array, so {option} has no meaning", given=self.path)
        array = load_npy(self.path)
        layout = find_layout(array.shape, self.layout)
        large = array.nbytes > self.memory_gb * 1e9
        sample = array[sample_of(len(array)).numpy()] if large else array
        limits = choose_range([sample] if holds_pixels(layout) else [], self.range, self.path)
        return MappedImages(self.path, layout, limits) if large else TensorImages(to_examples(array, layout, limits))

    def _archive(self) -> dict[str, TensorImages]:
        """Return the examples of each split; a file without splits is a single "train" split."""
        columns = read_archive(self.path)
        parts = _by_split(columns)
        axes = self._axes(columns)
        if self.key in columns or not self._candidates(parts.get("train", {}), axes):
            parts = {"train": columns}
        own = {}
        for name in chosen_splits(parts, self.validation, self.test):
            array = self._choose(parts[name], axes).load()
            layout = find_layout(array.shape, self.layout)
            sample, source = [array] if holds_pixels(layout) else [], f"{self.path}, {name}" if len(parts) > 1 else self.path
            examples = to_examples(array, layout, choose_range(sample, self.range, source))
            own[name] = TensorImages(examples, *self._labels(parts[name], len(examples)))
        return own

    def _axes(self, columns: Mapping[str, Column]) -> Collection[int]:
        """Return the possible numbers of axes of the examples: that of the layout, else those of images, volumes and tables."""
        if self.layout is not None:
            return {len(self.layout)}
        found = {column.ndim for column in columns.values()}
        return next(axes for axes in ({3, 4}, {5}, {2}) if axes & found or axes == {2})

    def _candidates(self, columns: Mapping[str, Column], axes: Collection[int]) -> list[str]:
        """Return the arrays that could hold examples; labels may be a column of a table."""
        labels = {*LABELS, self.labels}
        return [name for name, column in columns.items() if column.ndim in axes and (column.ndim > 2 or name not in labels)]

    def _choose(self, columns: Mapping[str, Column], axes: Collection[int]) -> Column:
        """Return the array called ``key``, or the only candidate."""
        if self.key is None:
            found = self._candidates(columns, axes)
            if len(found) != 1:
                given = f"{self.path} with " + ", ".join(f"{name} {column.text}" for name, column in columns.items())
                problem = "several arrays could hold the examples" if found else "no array in the file can hold examples"
                remedy = f"choose one, for example --dataset.key {found[0]}" if found else None
                if not found and self.path.suffix == ".parquet":
                    remedy = "use --dataset huggingface for encoded pictures in Parquet"
                raise DataError(problem, given=given, remedy=remedy)
            return columns[found[0]]
        if self.key not in columns:
            raise UsageError("the file has no array of that name", given=f"key {self.key}", expected=", ".join(columns))
        return columns[self.key]

    def _labels(self, columns: Mapping[str, Column], num: int) -> tuple[Tensor | None, tuple[str, ...] | None]:
        name = self.labels or next((name for name in LABELS if name in columns), None)
        if name is None:
            return None, None
        if name not in columns:
            raise UsageError("the file has no array of that name", given=f"labels {name}", expected=", ".join(columns))
        source = f"{self.path}: {name}"
        return optional_labels(columns[name].load, num, name, explicit=self.labels is not None, description=source)


def _by_split(columns: Mapping[str, Column]) -> dict[str, dict[str, Column]]:
    """Return the columns whose names contain a split, by split and by the rest of the name."""
    parts: dict[str, dict[str, Column]] = {}
    for name, column in columns.items():
        words = re.split(r"[_\-./]", name)
        stated = [split for word in words if (split := split_of(word)) is not None]
        if len(stated) == 1:
            parts.setdefault(stated[0], {})["_".join(word for word in words if split_of(word) is None)] = column
    return parts
