"""Columns of a Parquet file as arrays of images; needs pyarrow."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.data.images import Decoder
from vaekit.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

Array = np.ndarray[Any, np.dtype[Any]]


def read_parquet(file: Path) -> dict[str, Array]:
    """Read the columns that hold images (encoded files, as Hugging Face writes them, or lists of numbers), numbers or text.

    Encoded images must be of one size and of one kind, colour or grey.

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
    return {name: _column(table[name], f"column {name} of {file}") for name in table.column_names}


def _column(column: Any, name: str) -> Array:
    from pyarrow import types

    values = column.combine_chunks()
    if types.is_struct(values.type) and values.type.get_field_index("bytes") >= 0:
        values = values.field("bytes")
    if types.is_binary(values.type) or types.is_large_binary(values.type):
        return _decode(values.to_pylist(), name)
    shape = [len(values)]
    while types.is_list(values.type) or types.is_large_list(values.type) or types.is_fixed_size_list(values.type):
        lengths = (
            set(values.value_lengths().to_pylist()) if not types.is_fixed_size_list(values.type) else {values.type.list_size}
        )
        if len(lengths) != 1 or None in lengths:
            raise DataError("the rows differ in shape", given=name, expected="lists of one length")
        shape += lengths
        values = values.flatten()
    if values.null_count or types.is_nested(values.type):
        return np.empty(shape[0], dtype="V1")  # neither images nor labels; refused where it is asked for
    array: Array = values.to_numpy(zero_copy_only=False).reshape(shape)
    return array.astype(str) if array.dtype.kind == "O" else array


def _decode(files: list[bytes | None], name: str) -> Array:
    if None in files:
        raise DataError("some rows have no picture", given=f"{name}, row {files.index(None)}")
    from PIL import Image

    first = Image.open(io.BytesIO(files[0] or b""))
    decoder = Decoder(None, "grey" if first.mode in ("1", "L", "I", "I;16") else "rgb")
    pictures = [decoder(io.BytesIO(content or b""), f"{name}, row {row}") for row, content in enumerate(files)]
    for row, picture in enumerate(pictures):
        if picture.shape != pictures[0].shape:
            raise DataError(
                "the pictures differ in size",
                given=f"{name}: row 0 is {pictures[0].shape[1:]}, row {row} is {picture.shape[1:]} (height, width)",
                expected="one size",
                remedy="write them as files and use --dataset folder with --dataset.size",
            )
    return np.stack(pictures)
