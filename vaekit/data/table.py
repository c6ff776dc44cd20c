"""Tables of columns, written a part at a time to a .parquet, .npz or .npy file. Importing this module does not import torch."""

from __future__ import annotations

import math
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from vaekit.data.pixels import Array
from vaekit.errors import UsageError
from vaekit.extras import import_extra
from vaekit.files import local_path, staged, writing

PART_BYTES = 2**24
"""The number of bytes of rows that are collected in memory and then written together."""


@contextmanager
def write_table(path: str | Path) -> Iterator[Table]:
    """Write a table, whose rows are appended within the context; memory does not grow with their number.

    The suffix of the path states the format:

    * ``.parquet``: a column with several numbers per row is a fixed-size list, nested for more axes, since thousands of columns
      would be slow to read and hard to address. ``np.stack(frame["z"])`` makes it an array in pandas, and
      ``frame["z"].to_numpy()`` in polars;
    * ``.npz``: an array per column;
    * ``.npy``: the array of the only column.

    The file appears when it is complete, and then replaces an existing file; if the context fails, nothing remains.

    Args:
        path: The file.

    Raises:
        UsageError: The suffix is unknown, pyarrow is required and not installed, or the path exists and is not a regular file.
        VaekitError: The file cannot be written.

    Example:
        >>> with write_table("codes.npz") as table:
        ...     for start in (0, 3):
        ...         table.append({"row": np.arange(start, start + 3), "z": np.zeros((3, 16), np.float32)})
        >>> {name: array.shape for name, array in np.load("codes.npz").items()}
        {'row': (6,), 'z': (6, 16)}
    """
    path = local_path(path)
    if path.suffix not in FORMATS:
        raise UsageError("unknown format of a table", given=path, expected=f"a {', '.join(FORMATS)} file")
    with staged(path) as file:
        table = FORMATS[path.suffix](file, path)
        try:
            yield table
            table.close()
        finally:
            table.release()


class Table(ABC):
    """A table being written; see `write_table`.

    Args:
        file: The file to write, which exists and is empty.
        path: Its final path, for error messages.
    """

    single: ClassVar[bool] = False
    """Whether it has a single column."""

    def __init__(self, file: Path, path: Path) -> None:
        self.file, self.path = file, path
        self.open = ExitStack()
        """The open files."""
        self._schema: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._waiting: dict[str, Any] = {}
        self._filled = self._capacity = 0
        self._begun = False

    def append(self, columns: Mapping[str, Array]) -> None:
        """Append rows.

        Args:
            columns: Numbers or text by column, each ``(n, *shape)``. Every call has the same columns, of the same types and
                shapes; text may be of any length.

        Raises:
            UsageError: The format cannot hold several columns.
            VaekitError: The file cannot be written.
            ValueError: The columns differ in length, or from those of earlier calls.
        """
        lengths = {name: len(values) for name, values in columns.items()}
        if len({*lengths.values()}) != 1:
            raise ValueError(f"columns of one length are expected, got {lengths}")
        if not self._schema:
            self._begin(columns)
        if _schema(columns) != self._schema:
            raise ValueError(f"expected the columns {self._schema}, got {_schema(columns)}")
        num, done = next(iter(lengths.values())), 0
        while done < num:
            end = min(num, done + self._capacity - self._filled)
            for name, values in columns.items():
                self._waiting[name][self._filled : self._filled + end - done] = values[done:end]
            self._filled, done = self._filled + end - done, end
            if self._filled == self._capacity:
                self._write_rows()

    def _begin(self, columns: Mapping[str, Array]) -> None:
        """Allocate memory for collected rows; small arrays kept from each batch would fragment the memory of batches."""
        if self.single and len(columns) != 1:
            given = f"{self.path} for {', '.join(columns)}"
            raise UsageError("the file holds one array", given=given, expected="a .parquet or .npz file")
        self._schema = _schema(columns)
        size = sum(values.itemsize * math.prod(values.shape[1:]) for values in columns.values())
        self._capacity = max(1, PART_BYTES // max(1, size))
        for name, values in columns.items():
            text = self._schema[name][0] == "text"
            self._waiting[name] = [] if text else np.empty((self._capacity, *values.shape[1:]), values.dtype)

    def _write_rows(self) -> None:
        part = {
            name: np.array(rows, np.str_) if isinstance(rows, list) else rows[: self._filled]
            for name, rows in self._waiting.items()
        }
        with writing(self.path):
            self.write(part)
        for rows in self._waiting.values():
            if isinstance(rows, list):
                rows.clear()
        self._filled, self._begun = 0, True

    def close(self) -> None:
        """Write the remaining rows and complete the file.

        Raises:
            VaekitError: The file cannot be written.
            ValueError: Nothing was appended.
        """
        if not self._schema:
            raise ValueError("a table needs columns")
        if self._filled or not self._begun:
            self._write_rows()
        with writing(self.path):
            self.complete()

    def release(self) -> None:
        """Close all open files, whether the table is complete or not."""
        with suppress(OSError):  # such as that of a full disk, which was already reported
            self.open.close()

    @abstractmethod
    def write(self, part: Mapping[str, Array]) -> None:
        """Write rows."""

    @abstractmethod
    def complete(self) -> None:
        """Complete the file, to which some rows were written."""


def _schema(columns: Mapping[str, Array]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the type of each column, regardless of the length of text, and the shape of a value."""
    return {
        name: ("text" if values.dtype.kind == "U" else str(values.dtype), values.shape[1:]) for name, values in columns.items()
    }


def _write_header(stream: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Write the header of a .npy file, whose size does not depend on the number of rows."""
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, described)


class ParquetTable(Table):
    """A Parquet file."""

    def __init__(self, file: Path, path: Path) -> None:
        super().__init__(file, path)
        self._arrow = import_extra("pyarrow", "parquet", f"writing {path.name}")
        self._parquet = import_extra("pyarrow.parquet", "parquet", f"writing {path.name}")
        self._writer: Any = None

    def write(self, part: Mapping[str, Array]) -> None:
        rows = self._arrow.table({name: self._column(values) for name, values in part.items()})
        if self._writer is None:
            text = [name for name, values in part.items() if values.dtype.kind == "U"]
            self._writer = self._parquet.ParquetWriter(self.file, rows.schema, use_dictionary=text)
            self.open.callback(self._writer.close)
        self._writer.write_table(rows)

    def _column(self, values: Array) -> Any:
        column = self._arrow.array(values.reshape(-1))
        for size in reversed(values.shape[1:]):
            column = self._arrow.FixedSizeListArray.from_arrays(column, size)
        return column

    def complete(self) -> None:
        self._writer.close()


class NpyTable(Table):
    """A .npy file."""

    single = True

    def __init__(self, file: Path, path: Path) -> None:
        super().__init__(file, path)
        self._stream = self.open.enter_context(file.open("wb"))
        self._type, self._shape = np.dtype("f4"), (0,)

    def write(self, part: Mapping[str, Array]) -> None:
        (values,) = part.values()
        if not self._stream.tell():
            self._type, self._shape = values.dtype, (0, *values.shape[1:])
            _write_header(self._stream, self._type, self._shape)
        self._stream.write(values.tobytes())
        self._shape = (self._shape[0] + len(values), *self._shape[1:])

    def complete(self) -> None:
        self._stream.seek(0)
        _write_header(self._stream, self._type, self._shape)
        self._stream.flush()


class NpzTable(Table):
    """A .npz file.

    It stores its arrays one after another, so until it is complete, each is in an unnamed temporary file beside it.
    """

    def __init__(self, file: Path, path: Path) -> None:
        super().__init__(file, path)
        self._parts: dict[str, IO[bytes]] = {}
        self._types: dict[str, np.dtype[Any]] = {}
        self._total = 0

    def write(self, part: Mapping[str, Array]) -> None:
        for name, values in part.items():
            if name not in self._parts:
                stored = tempfile.TemporaryFile(dir=self.file.parent)  # noqa: SIM115 - `release` closes it
                self._parts[name] = self.open.enter_context(stored)
            np.save(self._parts[name], values, allow_pickle=False)
            self._types[name] = np.result_type(self._types.get(name, values.dtype), values.dtype)  # that of the longest text
        self._total += len(next(iter(part.values())))

    def complete(self) -> None:
        with zipfile.ZipFile(self.file, "w") as archive:
            for name, stored in self._parts.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    end, done = stored.tell(), stored.seek(0)
                    while done < end:
                        values = np.load(stored, allow_pickle=False).astype(self._types[name], copy=False)
                        if not done:
                            _write_header(member, values.dtype, (self._total, *values.shape[1:]))
                        member.write(values.tobytes())
                        done = stored.tell()


FORMATS: dict[str, type[Table]] = {".parquet": ParquetTable, ".npz": NpzTable, ".npy": NpyTable}
"""The formats of tables by suffix."""
