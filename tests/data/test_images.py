from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, PngImagePlugin

from vaekit.data import FileImages, TensorImages, split_source
from vaekit.data.folders import find_images
from vaekit.data.images import ImageReader, common_size
from vaekit.data.sources import hold_out
from vaekit.drawing.images import read_images
from vaekit.errors import DataError, UsageError
from vaekit.roles import datasets


def gradient(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 255 // height, columns * 255 // width, np.full_like(rows, 90)], -1).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, **settings) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **settings)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff"])
def test_lossless_colours_are_read_exactly(tmp_path, suffix):
    pixels = gradient(7, 11)
    assert np.array_equal(ImageReader(None)(save(tmp_path / f"a{suffix}", pixels)), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".webp", ".gif"])
def test_lossy_formats_are_read_closely(tmp_path, suffix):
    pixels = gradient(40, 40)
    read = ImageReader(None)(save(tmp_path / f"a{suffix}", pixels)).numpy().astype(int)
    assert np.abs(read - pixels.transpose(2, 0, 1)).mean() < 12


@pytest.mark.parametrize("shape", [(7,), (1, 9), (1, 3, 7, 11), (2, 7, 11)])
def test_an_image_file_is_refused_for_data_other_than_images(tmp_path, shape):
    with pytest.raises(DataError, match=r"1 or 3 channels(.*\n)*.*by index"):
        read_images([save(tmp_path / "a.png", gradient(7, 11))], shape)


def test_transparent_pictures_are_composited_onto_white(tmp_path):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (10, 20, 30, 255)
    pixels[1, 1] = (0, 0, 0, 128)
    read = ImageReader(None)(save(tmp_path / "a.png", pixels))
    assert read[:, 0, 0].tolist() == [10, 20, 30]
    assert read[:, 0, 1].tolist() == [255, 255, 255]
    assert read[:, 1, 1].tolist() == [127, 127, 127]
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    palette.save(tmp_path / "b.png", transparency=1)
    assert ImageReader(None)(tmp_path / "b.png")[:, 0].T.tolist() == [[255, 0, 0], [255, 255, 255]]


def test_sixteen_bit_greys_become_eight_bit(tmp_path):
    pixels = np.array([[0, 257 * 100, 65535]], np.uint16)
    assert ImageReader(None, "grey")(save(tmp_path / "a.png", pixels)).tolist() == [[[0, 100, 255]]]
    assert ImageReader(None, "rgb")(tmp_path / "a.png")[:, 0, 1].tolist() == [100, 100, 100]


def test_the_cameras_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to show
    pixels = gradient(4, 6)
    file = save(tmp_path / "a.png", pixels, exif=exif)
    assert np.array_equal(ImageReader(None)(file), np.rot90(pixels, -1).transpose(2, 0, 1))
    assert common_size([file]) == (6, 4)
    large = gradient(400, 600)
    file = save(tmp_path / "a.jpg", large, exif=exif, quality=95)
    upright = Image.fromarray(np.rot90(large, -1)).resize((20, 30), Image.Resampling.BICUBIC)
    read = ImageReader((30, 20), "rgb", "stretch")(file).numpy().astype(int)
    assert np.abs(read - np.asarray(upright).transpose(2, 0, 1)).max() <= 4


TURNS = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
UPRIGHT = dict(enumerate(TURNS, 2))
ORIENTED = {"png": {}, "tiff": {}, "jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}


@pytest.mark.parametrize("orientation", [*range(10), 65535])
@pytest.mark.parametrize("suffix", ORIENTED)
def test_all_sources_agree_on_the_orientation(tmp_path, suffix, orientation):
    """For every format and tag value, valid or not: shape and pixels from a folder, a table, a stream and a file."""
    pixels = gradient(8, 24)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for i in range(12):
        file = save(tmp_path / "set" / f"{i:02d}.{suffix}", pixels, exif=exif, **ORIENTED[suffix])
    picture = Image.fromarray(pixels)
    upright = picture.transpose(Image.Transpose[UPRIGHT[orientation]]) if orientation in UPRIGHT else picture
    expected = np.asarray(upright).transpose(2, 0, 1).astype(int)
    assert common_size([file]) == expected.shape[1:]
    ways = [datasets.build(datasets.spec("folder")(path=str(tmp_path / "set"), memory_gb=gb)).load().train for gb in (1.0, 0.0)]
    ways.append(FileImages([io.BytesIO(file.read_bytes())], ImageReader(None)))
    found = [way.gather(torch.tensor([0]))[0].int().numpy() for way in ways]
    found.append((read_images([file], tuple(expected.shape))[0] * 255).round().int().numpy())
    for read in found:
        assert read.shape == expected.shape
        assert np.abs(read - expected).max() <= 12


@pytest.mark.parametrize(("size", "shape"), [((5, 5), (3, 5, 5)), ((4, 9), (3, 4, 9))])
def test_other_proportions_are_cropped_padded_or_stretched(tmp_path, size, shape):
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[:, :3] = 200  # left edge
    file = save(tmp_path / "a.png", pixels)
    cropped, padded, stretched = (ImageReader(size, "rgb", fit)(file) for fit in ("crop", "pad", "stretch"))
    assert cropped.shape == padded.shape == stretched.shape == shape
    assert stretched[0, :, 0].min() > 120  # distorted: the edge is still there
    if size == (5, 5):
        assert cropped.max() < 50  # cut away
        assert padded[:, 0].min() == 255  # a white ground above


def test_a_large_jpeg_is_resized_as_closely_as_the_whole(tmp_path):
    pixels = gradient(800, 600)
    file = save(tmp_path / "a.jpg", pixels, quality=95)
    exact = np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.abs(ImageReader((32, 32), "rgb", "stretch")(file).numpy().astype(int) - exact).max() <= 4


@pytest.mark.parametrize("size", [(20, 31), (64, 64), (150, 90)])
@pytest.mark.parametrize("channels", ["rgb", "grey"])
def test_resampling_is_pillows_bicubic_filter(tmp_path, size, channels):
    pixels = np.random.default_rng(0).integers(60, 196, (80, 70, 3), dtype=np.uint8)  # nothing is clipped
    file = save(tmp_path / "a.png", pixels)
    picture = Image.fromarray(pixels).convert("RGB" if channels == "rgb" else "L")
    exact = np.atleast_3d(np.asarray(picture.resize(size[::-1], Image.Resampling.BICUBIC))).transpose(2, 0, 1)
    assert np.abs(ImageReader(size, channels, "stretch")(file).numpy().astype(int) - exact).max() <= 1


def test_cmyk_and_grey_jpegs_are_read(tmp_path):
    colours = Image.fromarray(gradient(40, 40))
    colours.convert("CMYK").save(tmp_path / "inks.jpg", quality=95)
    colours.convert("L").save(tmp_path / "grey.jpg", quality=95)
    for name, mode in (("inks", "RGB"), ("grey", "L")):
        expected = np.asarray(colours.convert(mode).convert("RGB")).transpose(2, 0, 1).astype(int)
        for size in (None, (40, 40)):
            assert np.abs(ImageReader(size)(tmp_path / f"{name}.jpg").numpy() - expected).mean() < 4
    grey = np.asarray(colours.convert("L")).astype(int)
    colours.save(tmp_path / "colours.jpg", quality=95)
    assert np.abs(ImageReader((40, 40), "grey")(tmp_path / "colours.jpg")[0].numpy() - grey).mean() < 4


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_truncated_image_is_named(tmp_path, suffix):
    file = save(tmp_path / f"a{suffix}", np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(DataError, match=f"a\\{suffix}"):
        ImageReader(None)(file)


def test_floating_point_pixels_are_refused(tmp_path):
    with pytest.raises(DataError, match="unknown range"):
        ImageReader(None)(save(tmp_path / "a.tiff", np.ones((2, 2), np.float32)))


def test_files_are_sorted_by_path_without_hidden_ones(tmp_path):
    for name in ("b/2.png", "a/1.png", "c.png", "b/.3.png"):
        save(tmp_path / name, gradient(2, 2))
    assert [file.relative_to(tmp_path).as_posix() for file in find_images(tmp_path)] == ["a/1.png", "b/2.png", "c.png"]


def numbered(num: int) -> TensorImages:
    return TensorImages(torch.arange(num, dtype=torch.float32).view(-1, 1, 1, 1), torch.arange(num))


@pytest.mark.parametrize("num", [3, 10, 101])
def test_splits_are_disjoint_complete_and_reproducible(num):
    first, second = split_source(numbered(num), 0.1, 0.2), split_source(numbered(num), 0.1, 0.2)
    parts = [part.labels.tolist() for part in (first.train, first.validation, first.test)]
    assert sorted(itertools.chain(*parts)) == list(range(num))
    assert parts == [part.labels.tolist() for part in (second.train, second.validation, second.test)]
    assert all(parts)
    assert first.shape == (1, 1, 1)


def test_splits_are_stratified():
    counts = {0: 40, 1: 200, 2: 13, 3: 60}
    labels = torch.cat([torch.full((count,), label) for label, count in counts.items()])
    source = TensorImages(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), labels, ("a", "b", "c", "d"))
    splits = split_source(source, 0.2, 0.1)
    for part, fraction in ((splits.train, 0.7), (splits.validation, 0.2), (splits.test, 0.1)):
        for label, count in counts.items():
            assert abs((part.labels == label).sum() - fraction * count) <= 1


def test_too_few_images_and_invalid_fractions_are_refused():
    with pytest.raises(DataError, match="2 images"):
        split_source(numbered(2), 0.1, 0.1)
    for fractions in ((0.0, 0.1), (0.5, 0.5), (-0.1, 0.2)):
        with pytest.raises(UsageError, match="leave a split empty"):
            split_source(numbered(10), *fractions)
    for validation in (0, 10):
        with pytest.raises(UsageError, match="between 1 and 9"):
            hold_out(numbered(10), numbered(2), validation)


def test_a_source_has_a_range_and_a_binary_flag():
    assert TensorImages(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)).is_binary
    assert not TensorImages(torch.tensor([0, 1], dtype=torch.uint8).view(2, 1, 1, 1)).is_binary
    assert TensorImages(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)).is_binary
    assert TensorImages(torch.tensor([[0.0, 1.0], [torch.nan, 1.0]])).is_binary
    assert not TensorImages(torch.tensor([[0.0, 1.0], [torch.nan, 0.5]])).is_binary
    assert numbered(10).value_range() == (0, 9)
    assert TensorImages(torch.zeros(2, 1, 1, 1, dtype=torch.uint8)).value_range() == (0, 1)


@pytest.mark.parametrize("wrong", [torch.zeros(2), torch.zeros(2, 1, 3, 3, 3, 3), torch.zeros(2, 1, 3, 3, dtype=torch.float64)])
def test_an_unsuitable_tensor_is_refused(wrong):
    with pytest.raises(DataError, match="cannot hold examples"):
        TensorImages(wrong)
    with pytest.raises(DataError, match="differ in number"):
        TensorImages(torch.zeros(2, 1, 3, 3), torch.zeros(3))


def moved_to_the_end(png: bytes, kind: bytes) -> bytes:
    """Return a PNG with the chunks of a kind after its pixels."""
    chunks, place = [], 8
    while place < len(png):
        size = int.from_bytes(png[place : place + 4], "big") + 12
        chunks.append(png[place : place + size])
        place += size
    chunks.sort(key=lambda chunk: (chunk[4:8] == b"IEND", chunk[4:8] == kind))  # keeps the order of the others
    return png[:8] + b"".join(chunks)


EXIF = Image.Exif()
EXIF[0x0112] = 6
LATE = {"eXIf": {"exif": EXIF}, "iTXt": {"pnginfo": PngImagePlugin.PngInfo()}}
LATE["iTXt"]["pnginfo"].add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')


@pytest.mark.parametrize("kind", LATE)
@pytest.mark.parametrize("late", [False, True])
def test_the_orientation_of_a_png_may_follow_its_pixels(tmp_path, kind, late):
    file = save(tmp_path / "a.png", gradient(4, 6), **LATE[kind])
    if late:
        file.write_bytes(moved_to_the_end(file.read_bytes(), kind.encode()))
        assert file.read_bytes().index(kind.encode()) > file.read_bytes().index(b"IDAT")
    assert common_size([file]) == (6, 4)
    assert ImageReader(None)(file).shape == (3, 6, 4)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_the_size_of_a_picture_is_read_without_its_pixels(tmp_path, suffix, monkeypatch):
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "a text")
    file = save(tmp_path / f"a.{suffix}", gradient(200, 300), **({"pnginfo": info} if suffix == "png" else {}))
    if suffix == "png":
        file.write_bytes(moved_to_the_end(file.read_bytes(), b"tEXt"))
    decoded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded.append)
    assert common_size([file] * 3) == (200, 300)
    assert not decoded


def test_the_size_of_a_truncated_png_is_an_error(tmp_path):
    file = save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(DataError, match="a\\.png"):
        common_size([file])
