"""Files are complete or absent, and only regular files are replaced."""

from __future__ import annotations

import io
import os
import unicodedata
from pathlib import Path

import pytest

import vaekit
from vaekit import files
from vaekit.errors import UsageError, VaekitError
from vaekit.files import file_names, local_path, write_atomically, write_text
from vaekit.specs.models import read_spec
from vaekit.specs.resolve import resolve
from vaekit.store.folder import RunFolder
from vaekit.sweeps.record import make_folder


def test_a_link_stays_and_the_file_that_it_points_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/null")])
def test_only_regular_files_are_replaced(tmp_path: Path, make) -> None:
    make(tmp_path / "place")
    before = (tmp_path / "place").lstat().st_mode
    with pytest.raises(UsageError, match="not a regular file"):
        write_text(tmp_path / "place", "text")
    assert (tmp_path / "place").lstat().st_mode == before


def test_a_full_disk_names_the_file_and_keeps_the_older_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(VaekitError, match=r"cannot write .*file") as caught:
        write_atomically(tmp_path / "file", write)
    assert "No space left" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


HARD = [
    "C++",
    "C#",
    "a b",
    "a_b",
    "a/b",
    "A_b",
    "ß",
    "SS",
    "..",
    ".",
    "",
    "con",
    "COM1.txt",
    "aux",
    "\u00e9",
    "e\u0301",
    "x" * 300,
    "x" * 301,
    "C__-2",
]


def test_names_become_distinct_file_names_that_every_system_allows(tmp_path: Path) -> None:
    found = file_names(HARD, taken=["grid.png"])
    folded = {unicodedata.normalize("NFC", name.casefold()) for name in found}
    assert len(folded) == len(HARD)
    for name in found:
        (tmp_path / name).mkdir()
        assert not set(name) & set('<>:"/\\|?*')
        assert not name.startswith(".")
        assert not name.endswith((".", " "))
        assert len(name.encode()) < 256
        assert name.partition(".")[0].lower() not in {"con", "com1", "aux"}
    assert file_names(list(reversed(HARD))[:3]) == ["C__-2", "x" * 60, f"{'x' * 60}-2"]


def test_valid_file_names_are_unchanged(tmp_path: Path) -> None:
    assert file_names(["a b", "a_b", "grid.png"], taken=["grid.png"]) == ["a_b-2", "a_b", "grid.png-2"]


@pytest.mark.parametrize("url", ["sqlite:///e.db", "s3://bucket/run", "https://example.org/a.png", Path("file:///tmp/run")])
def test_a_url_is_not_treated_as_a_path(
    url: str | Path, labelled_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uses = [
        lambda: write_text(Path(url), "text"),
        lambda: RunFolder(url),
        lambda: read_spec(url),
        lambda: make_folder(url),
        lambda: vaekit.search(over={"lr": (1e-3, 1e-2)}, storage=url, trials=1, epochs=1, pictures="none"),
        lambda: vaekit.Run(url),
        lambda: vaekit.Run(labelled_run).export("torch", out=url),
    ]
    for use in uses:
        with pytest.raises(UsageError, match="is a URL"):
            use()
    assert not list(tmp_path.iterdir())


def test_a_path_similar_to_a_url_is_a_path(tmp_path: Path) -> None:
    write_text(tmp_path / "a:b", "text")
    assert local_path("C:/runs/1") == Path("C:/runs/1")
    assert (tmp_path / "a:b").read_text() == "text"


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "a\x7f"])
def test_folders_of_runs_and_sweeps_have_printable_names(tmp_path: Path, name: str) -> None:
    for make in (lambda path: RunFolder.create(resolve({}), path), make_folder):
        with pytest.raises(UsageError, match="control character"):
            make(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_metrics_that_cannot_be_written_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(VaekitError, match=r"cannot write .*metrics\.jsonl") as caught:
        RunFolder(tmp_path).append_metrics({"epoch": 1})
    assert "No space left" in str(caught.value)
    assert "free disk space" in str(caught.value)


def test_an_uncreatable_folder_for_runs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").touch()
    for make in (lambda: RunFolder.create(resolve({})), lambda: make_folder(None)):
        with pytest.raises(UsageError, match=r"cannot write .* runs"):
            make()


class Counted(io.BytesIO):
    """A file that counts the bytes read from it, and the calls that read them."""

    count = calls = 0

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        self.count, self.calls = self.count + len(content), self.calls + 1
        return content


@pytest.mark.parametrize("block", [1, 2, 5, 1000])
@pytest.mark.parametrize("content", [b"", b"a", b"a\n", b"\n\n", b"a\nbc\n\ndef", b"a\r\nbc\r\n", b"x" * 50 + b"\ny\n"])
def test_lines_are_read_from_the_end(content: bytes, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BLOCK", block)
    found = [*files.lines_from_end(io.BytesIO(content))]
    assert [line for _, line in reversed(found)] == content.splitlines(keepends=True)
    assert all(content[place : place + len(line)] == line for place, line in found)


def test_earlier_lines_than_those_used_are_not_read() -> None:
    file = Counted(b"a line\n" * 1_000_000)
    lines = files.lines_from_end(file)
    assert [next(lines)[1] for _ in range(3)] == [b"a line\n"] * 3
    assert file.count == files.BLOCK


def test_a_long_line_is_read_once_in_few_pieces() -> None:
    file = Counted(b"first\n" + b"x" * (20 * files.BLOCK))
    assert len(next(files.lines_from_end(file))[1]) == 20 * files.BLOCK
    assert (file.count, file.calls) == (20 * files.BLOCK + 6, 6)
