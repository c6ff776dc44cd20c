"""Files are whole or absent, and what is not a file is not replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vaekit.errors import UsageError, VaekitError
from vaekit.files import write_atomically, write_text


def test_a_link_stays_and_the_file_that_it_points_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/null")])
def test_what_is_not_a_regular_file_is_not_replaced(tmp_path: Path, make) -> None:
    make(tmp_path / "place")
    before = (tmp_path / "place").lstat().st_mode
    with pytest.raises(UsageError, match="not a regular file"):
        write_text(tmp_path / "place", "text")
    assert (tmp_path / "place").lstat().st_mode == before


def test_a_full_disk_names_the_file_and_leaves_the_older_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(VaekitError, match=r"cannot write .*file") as caught:
        write_atomically(tmp_path / "file", write)
    assert "No space left" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"
