"""Skipped files in a folder of images are reported."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vaekit.data import FileImages
from vaekit.data.folders import FilesIn
from vaekit.data.images import ImageReader
from vaekit.errors import DataError
from vaekit.roles import datasets


def load(path, **options):
    return datasets.build(datasets.spec("folder")(path=str(path), **options)).load()


def picture(path: Path, i: int = 0, **settings) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (200, i, 255 - i)).save(path, **settings)
    return path


def total(splits) -> int:
    return sum(len(part) for part in splits.parts.values())


def test_linked_class_folders_are_followed_once(tmp_path):
    for i in range(6):
        picture(tmp_path / "elsewhere" / f"{i}.png", i)
        picture(tmp_path / "set" / "b" / f"{i}.png", 100 + i)
    (tmp_path / "set" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "b" / "back").symlink_to(tmp_path / "set")
    splits = load(tmp_path / "set")
    assert total(splits) == 12
    assert splits.train.class_names == ("a", "b")


def test_an_unreadable_folder_stops_or_is_warned_about(tmp_path, monkeypatch):
    for i in range(6):
        picture(tmp_path / "a" / f"{i}.png", i)
        picture(tmp_path / "b" / f"{i}.png", i)
    scandir = os.scandir

    def closed(path):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(DataError, match=r"1 folder in .* cannot be read(.*\n)*.*/b"):
        load(tmp_path)
    with pytest.warns(UserWarning, match="1 folder in .*/b"):
        assert total(load(tmp_path, on_bad_image="skip")) == 6


def test_files_of_any_image_suffix_are_read_and_others_are_counted(tmp_path):
    for i, name in enumerate(["a.JPG", "b.jfif", "c.jpe", "d.Png", "e.ppm", "f.tif"]):
        picture(tmp_path / name, i, format={"b.jfif": "JPEG", "c.jpe": "JPEG"}.get(name))
    for name in ("g.heic", "h.heic", "i", "notes.txt", ".hidden"):
        (tmp_path / name).write_bytes(b"other")
    with pytest.warns(UserWarning, match=r"skipped: 2 \.heic, 1 without a suffix, 1 \.txt$"):
        assert total(load(tmp_path)) == 6


def test_hidden_folders_are_named(tmp_path):
    for i in range(4):
        picture(tmp_path / "a" / f"{i}.png", i)
        picture(tmp_path / ".b" / f"{i}.png", i)
    with pytest.warns(UserWarning, match=r"1 hidden folder in .* skipped: \.b$"):
        assert total(load(tmp_path)) == 4


def test_a_folder_with_the_suffix_of_an_image_is_a_folder(tmp_path):
    for i in range(4):
        picture(tmp_path / "cats.jpg" / f"{i}.png", i)
        picture(tmp_path / "dogs" / f"{i}.png", i)
    assert load(tmp_path).train.class_names == ("cats.jpg", "dogs")


@pytest.mark.parametrize("suffix", [".tiff", ".gif", ".webp"])
def test_unread_pages_are_counted(tmp_path, suffix):
    more = [Image.new("RGB", (8, 8), (i, 200, 0)) for i in (40, 80)]
    for i in range(3):
        picture(tmp_path / f"{i}{suffix}", i, save_all=True, append_images=more)
        picture(tmp_path / f"{i}.png", i)
    with pytest.warns(UserWarning, match="3 of 6 images have several frames or pages"):
        assert total(load(tmp_path)) == 6


def test_pictures_in_lab_are_read_as_grey(tmp_path):
    pytest.importorskip("PIL.ImageCms")
    for i in range(4):
        Image.fromarray(np.full((8, 8, 3), (150, 128, 128), np.uint8), "RGB").copy()
        Image.merge("LAB", [Image.new("L", (8, 8), v) for v in (150 + i, 128, 128)]).save(tmp_path / f"{i}.tiff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grey, colour = (load(tmp_path, channels=channels).train.images for channels in ("grey", "rgb"))
    assert grey.shape[1] == 1
    assert (grey.int() - colour.int().float().mean(1, keepdim=True)).abs().max() <= 3


NAMES = ["a.png", "b/c.png", "größe/β.png", "b/" + os.fsdecode(b"\xff") + ".png"]


def test_files_are_made_from_their_names():
    files = FilesIn(Path("/set"), NAMES)
    assert [*files] == [Path("/set") / name for name in NAMES]
    assert files.names == NAMES
    assert files[-1] == Path("/set") / NAMES[-1]
    assert files[1:3] == [Path("/set/b/c.png"), Path("/set/größe/β.png")]
    with pytest.raises(IndexError):
        files[len(NAMES)]
    assert [*FilesIn(Path("/set"), [])] == []


def test_a_batch_names_only_its_own_files(monkeypatch):
    files = FilesIn(Path("/set"), [f"{i}.png" for i in range(1000)])
    source = FileImages(files, ImageReader((8, 8))).subset(torch.arange(999, 0, -2))
    made = []
    get = FilesIn.__getitem__
    monkeypatch.setattr(FilesIn, "__getitem__", lambda self, i: made.append(i) or get(self, i))
    assert source.places(torch.tensor([0, 2, 499]))["file"].tolist() == ["/set/999.png", "/set/995.png", "/set/1.png"]
    assert made == [999, 995, 1]
    assert source.names[1:3][0] == "/set/997.png"
    assert len(source.names) == 500
