"""Columns of a Parquet file as arrays; needs pyarrow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

Array = np.ndarray[Any, np.dtype[Any]]


def read_parquet(file: Path) -> dict[str, Array]:
    """Read the columns that hold images as lists of numbers, numbers or text.

    Raises:
        DataError: pyarrow is not installed, or the file cannot be read.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        remedy = "pip install 'vaekit[parquet]'"
        raise DataError("reading Parquet files needs pyarrow", given=error, remedy=remedy) from error
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError("cannot read the Parquet file", given=f"{file}: {error}") from error
    return {name: to_array(table[name], f"column {name} of {file}") for name in table.column_names}


def to_array(column: Any, name: str) -> Array:
    """Turn a column of pyarrow into an array; one of type V1 where it is neither images nor labels.

    Raises:
        DataError: Its rows are lists of several lengths.
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
        return np.empty(shape[0], dtype="V1")  # refused where it is asked for
    array: Array = values.to_numpy(zero_copy_only=False).reshape(shape)
    return array.astype(str) if array.dtype.kind == "O" else array
