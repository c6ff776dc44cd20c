"""Tables are written a part at a time, whole or not at all, and other programs read them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from vaekit.data import table as tables
from vaekit.data.archives import read_archive
from vaekit.data.table import Table, write_table
from vaekit.errors import UsageError, VaekitError

NUM = 1000
COLUMNS: dict[str, Any] = {
    "row": np.arange(NUM),
    "file": np.array([f"{'long/' * (i // 400 % 2)}{i}.png" for i in range(NUM)]),
    "z": np.random.default_rng(0).normal(size=(NUM, 6)).astype(np.float32),
    "map": np.random.default_rng(1).normal(size=(NUM, 2, 3)).astype(np.float32),
    "known": np.arange(NUM) % 3 == 0,
}


def fill(table: Table, columns: dict[str, Any], *, step: int = 7) -> None:
    for start in range(0, NUM, step):
        table.append({name: values[start : start + step] for name, values in columns.items()})


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of this module is written in many parts."""
    monkeypatch.setattr(tables, "PART_BYTES", 4096)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_all_columns_come_back_as_they_were(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    with write_table(path) as table:
        fill(table, COLUMNS)
        assert not path.exists()
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    read = read_archive(path)
    assert list(read) == list(COLUMNS)
    for name, values in COLUMNS.items():
        found = read[name].load()
        assert found.dtype == values.dtype, name
        np.testing.assert_array_equal(found, values)


@pytest.mark.usefixtures("small_parts")
def test_numpy_reads_a_whole_archive_and_maps_a_single_array(tmp_path: Path) -> None:
    with write_table(tmp_path / "table.npz") as table:
        fill(table, COLUMNS)
    with np.load(tmp_path / "table.npz", allow_pickle=False) as archive:
        assert {name: each.shape for name, each in archive.items()} == {name: each.shape for name, each in COLUMNS.items()}
    with write_table(tmp_path / "z.npy") as table:
        fill(table, {"z": COLUMNS["z"]})
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy", mmap_mode="r"), COLUMNS["z"])


@pytest.mark.usefixtures("small_parts")
def test_pandas_reads_a_table_and_arrow_its_fixed_size_lists(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    with write_table(tmp_path / "table.parquet") as table:
        fill(table, COLUMNS)
    frame = pandas.read_parquet(tmp_path / "table.parquet")
    np.testing.assert_array_equal(np.stack(frame["z"]), COLUMNS["z"])
    assert frame["file"].tolist() == COLUMNS["file"].tolist()
    assert str(pq.read_schema(tmp_path / "table.parquet").field("z").type) == "fixed_size_list<element: float>[6]"


def test_parts_are_large_however_few_rows_are_appended(tmp_path: Path) -> None:
    with write_table(tmp_path / "table.parquet") as table:
        fill(table, COLUMNS, step=1)
    assert pq.ParquetFile(tmp_path / "table.parquet").num_row_groups == 1


@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".npy"])
def test_a_table_without_rows_has_its_columns(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    with write_table(path) as table:
        table.append({"z": np.zeros((0, 6), np.float32)})
    found = np.load(path) if suffix == ".npy" else read_archive(path)["z"].load()
    assert found.size == 0
    with pytest.raises(ValueError, match="needs columns"), write_table(path):
        pass


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".npy"])
def test_a_failure_leaves_the_older_file_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    path.write_text("older")

    def fail() -> None:
        with write_table(path) as table:
            fill(table, {"z": COLUMNS["z"]})
            raise KeyError("of the caller")

    with pytest.raises(KeyError):
        fail()
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "older"


@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".npy"])
def test_a_full_disk_names_the_file(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(tables.FORMATS[suffix], "write", full)
    path = tmp_path / f"table{suffix}"
    with pytest.raises(VaekitError, match=r"cannot write .*table.*\n.*No space left"), write_table(path) as table:
        fill(table, {"z": COLUMNS["z"]})
    assert not list(tmp_path.iterdir())


def test_what_a_table_cannot_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"unknown format[\s\S]*codes.csv[\s\S]*\.parquet, \.npz, \.npy"):
        write_table(tmp_path / "codes.csv").__enter__()
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(UsageError, match="not a regular file"):
        write_table(tmp_path / "folder.npz").__enter__()
    with pytest.raises(VaekitError, match="check the path"):
        write_table(tmp_path / "no" / "codes.npz").__enter__()
    with pytest.raises(UsageError, match=r"one array[\s\S]*row, z"), write_table(tmp_path / "codes.npy") as table:
        fill(table, {"row": COLUMNS["row"], "z": COLUMNS["z"]})
    with pytest.raises(ValueError, match="one length"), write_table(tmp_path / "codes.npz") as table:
        table.append({"row": COLUMNS["row"], "z": COLUMNS["z"][1:]})
    with write_table(tmp_path / "codes.npz") as table:
        table.append({"z": COLUMNS["z"]})
        with pytest.raises(ValueError, match="expected the columns"):
            table.append({"z": COLUMNS["z"][:, 1:]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as if it were not installed
    with pytest.raises(UsageError, match=r"codes\.parquet needs a library[\s\S]*vaekit\[parquet\]"):
        write_table(tmp_path / "codes.parquet").__enter__()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["codes.npz", "folder.npz"]
