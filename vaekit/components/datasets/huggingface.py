"""Pictures in a table of Hugging Face `datasets`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Literal

import torch

from vaekit.data import FileImages, Splits, split_source
from vaekit.data.arrays import to_labels
from vaekit.data.images import Decoder, sides, within_memory
from vaekit.data.parquet import to_array
from vaekit.errors import DataError, UsageError
from vaekit.extras import import_extra
from vaekit.interfaces import Dataset
from vaekit.roles import datasets

if TYPE_CHECKING:
    from torch import Tensor

CALLED = {"validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
"""What sets call their splits."""


@datasets("huggingface")
class HuggingFace(Dataset):
    """A set of Hugging Face `datasets`: what `save_to_disk` wrote, Parquet or Arrow shards, or a name on the Hub.

    Its tables are mapped into memory and read by row, so they may be far larger than it. What `save_to_disk` wrote is read where
    it lies; everything else is first written to the library's cache (HF_HOME). Pictures are read as by `folder`.

    Args:
        path: The folder, a .parquet or .arrow file, or the name on the Hub, as `ylecun/mnist`.
        config: Which of the configurations of a set that has several.
        image: Column of the pictures, as encoded files; not needed where only one column can be that.
        labels: Column of the labels; by default "label" or "labels", where there is one that is complete.
        size: Side of the pictures, or height and width; without it all must have one size, which is kept.
        channels: Colour or grey.
        fit: How other proportions are brought to size: the middle cut out, the whole on a white ground, or distorted.
        validation: Fraction of the training images held out; by default the set's own validation split, or else a tenth.
        test: Fraction of the training images held out; by default the set's own test split, or else a tenth.
        memory_gb: Pictures that fit are decoded once and kept in memory; others are read anew each epoch.
    """

    default_likelihood: ClassVar[str] = "gaussian"

    def __init__(
        self,
        *,
        path: str,
        config: str | None = None,
        image: str | None = None,
        labels: str | None = None,
        size: int | tuple[int, int] | None = None,
        channels: Literal["rgb", "grey"] = "rgb",
        fit: Literal["crop", "pad", "stretch"] = "crop",
        validation: float | None = None,
        test: float | None = None,
        memory_gb: float = 4.0,
    ) -> None:
        self.path, self.config, self.image, self.labels = path, config, image, labels
        self.decoder = Decoder(sides(size), channels, fit)
        self.validation, self.test, self.memory_gb = validation, test, memory_gb

    def load(self) -> Splits:
        tables = self._parts(_read(self.path, self.config))
        from datasets import concatenate_datasets

        table = concatenate_datasets(list(tables.values()))
        image, labels = _choose_image(table, self.image), _labels(table, self.labels)
        images = FileImages(Rows(table, image, self.path), self.decoder, *labels)
        rows = torch.arange(len(table)).split([len(part) for part in tables.values()])
        own = {name: images.subset(part) for name, part in zip(tables, rows, strict=True)}
        validation = own.get("validation", 0.1 if self.validation is None else self.validation)
        test = own.get("test", 0.1 if self.test is None else self.test)
        return within_memory(split_source(own["train"], validation, test), self.memory_gb)

    def _parts(self, tables: dict[str, Any]) -> dict[str, Any]:
        """Return "train" and what else the set itself has held out, where no fraction is asked for; an only table is "train"."""
        if len(tables) == 1:
            return {"train": next(iter(tables.values()))}
        if "train" not in tables:
            raise DataError("the set has no training split", given=", ".join(tables), expected="one called train, or only one")
        parts = {"train": tables["train"]}
        for name, fraction in (("validation", self.validation), ("test", self.test)):
            own = [tables[called] for called in CALLED[name] if called in tables]
            if own and fraction is None:
                parts[name] = own[0]
        return parts


class Rows:
    """A column of encoded pictures: each row is read when it is asked for.

    Args:
        table: A `datasets.Dataset`.
        column: Its name.
        path: Where the table is from, for errors.
    """

    def __init__(self, table: Any, column: str, path: str) -> None:
        self.table, self.column, self.path = table, column, path

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int, /) -> Path | IO[bytes]:
        cell = self.table.data.column(self.column)[row].as_py()  # four times as fast as the table's own indexing
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        place = f"in row {row} of column {self.column} of {self.path}"
        if content is not None:
            return _Row(content, place)
        if isinstance(cell, dict) and cell.get("path"):
            return Path(cell["path"])
        raise DataError(f"there is no picture {place}")


class _Row(io.BytesIO):
    def __init__(self, content: bytes, place: str) -> None:
        super().__init__(content)
        self.place = place

    def __str__(self) -> str:
        return self.place


def _read(path: str, config: str | None) -> dict[str, Any]:
    """Return the splits of a set by name."""
    library = import_extra("datasets", "huggingface", "the data set 'huggingface'")
    place = Path(path).expanduser()
    saved = any((place / name).is_file() for name in ("dataset_dict.json", "state.json"))
    if saved and config is not None:
        raise UsageError("what save_to_disk wrote has no configurations", given=f"config {config}", remedy="leave it out")
    try:
        if saved:
            loaded = library.load_from_disk(str(place))
        elif place.is_file():
            loaded = library.load_dataset(str(place.parent), config, data_files=place.name)
        else:
            loaded = library.load_dataset(str(place) if place.is_dir() else path, config)
    except Exception as error:  # the library, its network and its file formats raise almost anything
        raise DataError(
            "cannot read the data set",
            given=f"{path}: {type(error).__name__}: {' '.join(str(error).split())[:300]}",
            expected="a folder that save_to_disk wrote, a folder or file of Parquet or Arrow, or a name on the Hub",
            remedy="check the path; a name on the Hub needs the network once",
        ) from error
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _choose_image(table: Any, name: str | None) -> str:
    """Return the column called ``name``, or the only one that can hold pictures."""
    from pyarrow import types

    def encoded(kind: Any) -> bool:
        kind = kind.field("bytes").type if types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    columns: dict[str, bool] = {field.name: encoded(field.type) for field in table.data.schema}
    if name is None:
        found = [column for column, fits in columns.items() if fits]
        if len(found) != 1:
            problem = "several columns can hold pictures" if found else "no column holds encoded pictures"
            remedy = "name it, as --dataset.image image" if found else "arrays of numbers are read by --dataset array"
            raise DataError(problem, given=f"columns {', '.join(found or columns)}", remedy=remedy)
        return found[0]
    if not columns.get(name):
        problem = "the column does not hold encoded pictures" if name in columns else "the set has no such column"
        raise UsageError(problem, given=f"image {name}", expected=", ".join(columns))
    return name


def _labels(table: Any, name: str | None) -> tuple[Tensor | None, tuple[str, ...] | None]:
    """Labels and their names; none where the column is not named and absent or incomplete."""
    chosen = name or next((column for column in ("label", "labels") if column in table.column_names), None)
    if chosen is None:
        return None, None
    if chosen not in table.column_names:
        raise UsageError("the set has no such column", given=f"labels {chosen}", expected=", ".join(table.column_names))
    column, feature = table.data.column(chosen), table.features[chosen]
    class_names = tuple(feature.names) if hasattr(feature, "names") else None
    if column.null_count or (class_names and -1 in column.unique().to_pylist()):  # -1 is the library's "no label"
        if name is None:
            return None, None
        raise DataError("some rows have no label", given=f"column {chosen}", remedy="leave --dataset.labels out")
    numbers, names = to_labels(to_array(column, chosen), len(table), chosen)
    return numbers, class_names or names
