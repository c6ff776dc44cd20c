"""Columns of a Parquet file as arrays; needs pyarrow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.errors import DataError
from vaekit.extras import import_extra

if TYPE_CHECKING:
    from pathlib import Path

Array = np.ndarray[Any, np.dtype[Any]]


def read_parquet(file: Path) -> dict[str, Array]:
    """Read the columns of a file: images as lists of numbers, numbers, or text.

    Raises:
        UsageError: pyarrow is not installed.
        DataError: The file cannot be read.
    """
    pq = import_extra("pyarrow.parquet", "parquet", "a Parquet file")
    import pyarrow as pa

    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError("cannot read the Parquet file", given=f"{file}: {error}") from error
    return {name: to_array(table[name], f"column {name} of {file}") for name in table.column_names}


def to_array(column: Any, name: str) -> Array:
    """Convert a column of pyarrow to an array; the array has type V1 if the column can be neither images nor labels.

    Raises:
        DataError: Its rows are lists of different lengths.
    """
    from pyarrow import types

    values = column.combine_chunks()
    shape = [len(values)]
    while types.is_list(values.type) or types.is_large_list(values.type) or types.is_fixed_size_list(values.type):
        lengths = (
            set(values.value_lengths().to_pylist()) if not types.is_fixed_size_list(values.type) else {values.type.list_size}
        )
        if len(lengths) != 1 or None in lengths:
            raise DataError("the rows differ in shape", given=name, expected="lists of one length")
        shape += lengths
        values = values.flatten()
    if values.null_count or types.is_nested(values.type) or types.is_binary(values.type):
        return np.empty(shape[0], dtype="V1")  # an error only if this column is chosen
    array: Array = values.to_numpy(zero_copy_only=False).reshape(shape)
    return array.astype(str) if array.dtype.kind == "O" else array
