"""Images in Hugging Face `datasets`."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, ClassVar

import torch

from vaekit.data import FileImages, ImageSource, Splits
from vaekit.data.arrays import optional_labels
from vaekit.data.folders import warn_of_frames
from vaekit.data.images import MOST_TRIED, ColourMode, ImageReader, decode_if_small, height_and_width, range_of
from vaekit.data.parquet import to_array
from vaekit.data.pixels import Range
from vaekit.data.sources import chosen_splits, sample_of, split_of, with_own_splits
from vaekit.data.specs import Fit
from vaekit.errors import DataError, UsageError, reason_of
from vaekit.extras import import_extra
from vaekit.interfaces import Dataset
from vaekit.roles import datasets


@datasets("huggingface")
class HuggingFace(Dataset):
    """A Hugging Face dataset: the output of `save_to_disk`, Parquet or Arrow shards, or a name on the Hub.

    Tables are memory-mapped and read row by row, so they may be far larger than memory. The output of `save_to_disk` is read in
    place; everything else is first written to the cache of `datasets` (HF_HOME). Pictures are read as in `folder`.

    Args:
        path: A folder, a .parquet or .arrow file, or a name on the Hub, for example `ylecun/mnist`.
        config: Configuration, for a dataset with several.
        image: Column of encoded pictures; default: the only candidate.
        labels: Column of labels; default: "label" or "labels", if it exists and has no gaps.
        size: Side length, or height and width, to resize to; default: the size of the pictures, which must all be the same.
        channels: Colour or grey.
        fit: How to handle other aspect ratios: crop the centre, pad with white, or stretch.
        range: The values of black and white, as for `folder`.
        validation: Fraction of the training images held out; default: the dataset's own validation split, else 0.1.
        test: Fraction of the training images held out; default: the dataset's own test split, else 0.1.
        memory_gb: Memory in GB for decoded pictures; if they do not fit, files are read again every epoch.
    """

    default_likelihood: ClassVar[str] = "gaussian"
    suffixes = ("", ".parquet", ".arrow")
    reader: ImageReader

    def __init__(
        self,
        *,
        path: str,
        config: str | None = None,
        image: str | None = None,
        labels: str | None = None,
        size: int | tuple[int, int] | None = None,
        channels: ColourMode = "rgb",
        fit: Fit = "crop",
        range: Range | None = None,  # noqa: A002
        validation: float | None = None,
        test: float | None = None,
        memory_gb: float = 4.0,
    ) -> None:
        self.path, self.config, self.image, self.labels = path, config, image, labels
        self.reader = ImageReader(height_and_width(size), channels, fit, range)
        self.validation, self.test, self.memory_gb = validation, test, memory_gb

    def load(self) -> Splits:
        return decode_if_small(with_own_splits(self.stored(), self.validation, self.test), self.memory_gb)

    def stored(self) -> Mapping[str, ImageSource]:
        tables = self._parts(_read(self.path, self.config))
        image = {name: _choose_image(table, self.image) for name, table in tables.items()}
        files = {name: Rows(table, image[name], self.path) for name, table in tables.items()}
        warn_of_frames([files["train"][row] for row in sample_of(len(files["train"]), MOST_TRIED).tolist()])
        reader = replace(self.reader, limits=range_of(files["train"], self.reader, self.path))
        labels, class_names = _merged({name: _labels(table, self.labels) for name, table in tables.items()})
        return {name: FileImages(rows, reader, labels[name], class_names) for name, rows in files.items()}

    def _parts(self, tables: dict[str, Any]) -> dict[str, Any]:
        """Return the tables to use, by split; a single table is "train"."""
        if len(tables) == 1:
            return {"train": next(iter(tables.values()))}
        found = {split: table for name, table in reversed(tables.items()) if (split := split_of(name)) is not None}
        if "train" not in found:
            expected = "a split called train, or a single split"
            raise DataError("the dataset has no training split", given=", ".join(tables), expected=expected)
        return {name: found[name] for name in chosen_splits(found, self.validation, self.test)}


class Rows:
    """A column of encoded pictures, read row by row on access.

    Args:
        table: A `datasets.Dataset`.
        column: Name of the column.
        path: Path of the dataset, for error messages.
    """

    def __init__(self, table: Any, column: str, path: str) -> None:
        self.table, self.column, self.path = table, column, path

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int, /) -> Path | IO[bytes]:
        cell = self.table.data.column(self.column)[row].as_py()  # four times as fast as indexing the table itself
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        place = f"in row {row} of column {self.column} of {self.path}"
        if content is not None:
            return _Row(content, place)
        if isinstance(cell, dict) and cell.get("path"):
            return Path(cell["path"])
        raise DataError(f"the picture is missing {place}")


class _Row(io.BytesIO):
    def __init__(self, content: bytes, place: str) -> None:
        super().__init__(content)
        self.place = place

    def __str__(self) -> str:
        return self.place


def _read(path: str, config: str | None) -> dict[str, Any]:
    """Return the splits of a dataset by name."""
    library = import_extra("datasets", "huggingface", "the dataset 'huggingface'")
    place = Path(path).expanduser()
    saved = any((place / name).is_file() for name in ("dataset_dict.json", "state.json"))
    if saved and config is not None:
        raise UsageError("the output of save_to_disk has no configurations", given=f"config {config}", remedy="leave it out")
    try:
        if saved:
            loaded = library.load_from_disk(str(place))
        elif place.is_file():
            loaded = library.load_dataset(str(place.parent), config, data_files=place.name)
        else:
            loaded = library.load_dataset(str(place) if place.is_dir() else path, config)
    except Exception as error:  # the library, the network and the file formats can raise almost anything
        raise DataError(
            "cannot read the dataset",
            given=f"{path}: {reason_of(error)}",
            expected="the output of save_to_disk, Parquet or Arrow files, or a name on the Hub",
            remedy="check the path; loading from the Hub needs a network connection the first time",
        ) from error
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _choose_image(table: Any, name: str | None) -> str:
    """Return the column called ``name``, or the only candidate."""
    from pyarrow import types

    def encoded(arrow_type: Any) -> bool:
        if types.is_struct(arrow_type) and arrow_type.get_field_index("bytes") >= 0:
            arrow_type = arrow_type.field("bytes").type
        return bool(types.is_binary(arrow_type) or types.is_large_binary(arrow_type))

    columns: dict[str, bool] = {field.name: encoded(field.type) for field in table.data.schema}
    if name is None:
        found = [column for column, fits in columns.items() if fits]
        if len(found) != 1:
            problem = "several columns could hold the pictures" if found else "no column holds encoded pictures"
            remedy = "choose one, for example --dataset.image image" if found else "use --dataset array for arrays of numbers"
            raise DataError(problem, given=f"columns {', '.join(found or columns)}", remedy=remedy)
        return found[0]
    if not columns.get(name):
        problem = "the column does not hold encoded pictures" if name in columns else "the dataset has no such column"
        raise UsageError(problem, given=f"image {name}", expected=", ".join(columns))
    return name


Labels = tuple[torch.Tensor | None, tuple[str, ...] | None]


def _labels(table: Any, name: str | None) -> Labels:
    """Return labels and their names; None if no column is named and the default one is absent or incomplete."""
    chosen = name or next((column for column in ("label", "labels") if column in table.column_names), None)
    if chosen is None:
        return None, None
    if chosen not in table.column_names:
        raise UsageError("the dataset has no such column", given=f"labels {chosen}", expected=", ".join(table.column_names))
    column, feature = table.data.column(chosen), table.features[chosen]
    class_names = tuple(feature.names) if hasattr(feature, "names") else None
    if column.null_count or (class_names and -1 in column.unique().to_pylist()):  # -1 is the library's "no label"
        if name is None:
            return None, None
        raise DataError("some rows have no label", given=f"column {chosen}", remedy="omit --dataset.labels")
    numbers, names = optional_labels(
        lambda: to_array(column, chosen), len(table), chosen, explicit=name is not None, description=f"the column {chosen}"
    )
    return numbers, None if numbers is None else class_names or names


def _merged(parts: Mapping[str, Labels]) -> tuple[dict[str, torch.Tensor | None], tuple[str, ...] | None]:
    """Return the labels of each split and the names of all labels; splits may list the names in different orders.

    Raises:
        DataError: Only some splits name their labels.
    """
    if any(numbers is None for numbers, _ in parts.values()):
        return dict.fromkeys(parts), None
    named = [names for _, names in parts.values() if names is not None]
    if not named:
        return {split: numbers for split, (numbers, _) in parts.items()}, None
    if len(named) < len(parts):
        given = ", ".join(f"{split}: {'names' if names else 'numbers'}" for split, (_, names) in parts.items())
        raise DataError("the labels of the splits are of different types", given=given, expected="names or numbers in all splits")
    union = tuple(dict.fromkeys(name for names in named for name in names))
    places = {split: torch.tensor([union.index(name) for name in names or ()]) for split, (_, names) in parts.items()}
    return {split: places[split][numbers] for split, (numbers, _) in parts.items() if numbers is not None}, union
