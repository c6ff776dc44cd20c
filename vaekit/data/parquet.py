"""Columns of a Parquet file as arrays; requires pyarrow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.data.pixels import Array
from vaekit.errors import DataError
from vaekit.extras import import_extra

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Column:
    """A column that is read on demand: images as lists of numbers, numbers, or text.

    Args:
        ndim: Number of axes of its array: 1 plus 1 for each level of lists.
        text: Its type, for error messages.
        load: A function that reads it; see `to_array`.
    """

    ndim: int
    text: str
    load: Callable[[], Array]


def parquet_columns(file: Path) -> dict[str, Column]:
    """Return the columns of a file.

    Raises:
        UsageError: pyarrow is not installed.
    """
    pq = import_extra("pyarrow.parquet", "parquet", "a Parquet file")

    def load(name: str) -> Array:
        return to_array(pq.read_table(file, columns=[name])[name], f"column {name} of {file}")

    schema = pq.read_schema(file)
    return {
        name: Column(_depth(schema.field(name).type), str(schema.field(name).type), partial(load, name)) for name in schema.names
    }


def _is_list(arrow_type: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(arrow_type) or types.is_large_list(arrow_type) or types.is_fixed_size_list(arrow_type))


def _depth(arrow_type: Any) -> int:
    arrow_type = getattr(arrow_type, "storage_type", arrow_type)
    return 1 + _depth(arrow_type.value_type) if _is_list(arrow_type) else 1


def to_array(column: Any, name: str) -> Array:
    """Convert a pyarrow column to an array, of type V1 if the column can hold neither images nor labels.

    Raises:
        DataError: The rows are lists of different lengths.
    """
    from pyarrow import types

    values = column.combine_chunks()
    values = getattr(values, "storage", values)  # for extension types such as Array2D of the library `datasets`
    shape = [len(values)]
    while _is_list(values.type):
        lengths = (
            set(values.value_lengths().to_pylist()) if not types.is_fixed_size_list(values.type) else {values.type.list_size}
        )
        if len(lengths) != 1 or None in lengths:
            raise DataError("the rows differ in shape", given=name, expected="lists of one length")
        shape += lengths
        values = values.flatten()
    if values.null_count or types.is_nested(values.type) or types.is_binary(values.type):
        return np.empty(shape[0], dtype="V1")  # a type of neither images nor labels
    array: Array = values.to_numpy(zero_copy_only=False).reshape(shape)
    return array.astype(str) if array.dtype.kind == "O" else array
