"""The values of black and white: one rule for every source."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from vaekit.data.arrays import MappedImages
from vaekit.errors import DataError, UsageError
from vaekit.roles import datasets

LEVELS = np.linspace(0, 1, 30)
"""Grey levels of the test images, black to white."""


def load(kind, **options):
    kind = "array" if kind == "mapped" else kind
    return datasets.build(datasets.spec(kind)(**options)).load()


def write(folder, kind, numbers):
    """Write 30 images of ``numbers``, one each, as a source of the kind; return its options."""
    images = np.broadcast_to(numbers[:, None, None], (30, 4, 5))
    if kind == "folder":
        for i, image in enumerate(images):
            Image.fromarray(np.ascontiguousarray(image)).save(folder / f"{i:02d}.tiff")
        return {"path": str(folder), "channels": "grey"}
    np.save(folder / "a.npy", images)
    return {"path": str(folder / "a.npy"), "memory_gb": 0.0 if kind == "mapped" else 1.0}


def greys(splits):
    """Return the images' first pixels in [0, 1], in order."""
    values = torch.cat([part.gather(torch.arange(len(part)))[:, 0, 0, 0].float() for part in splits.parts.values()])
    return (values / 255 if splits.train.integer else values).sort().values.numpy()


SOURCES = ("folder", "array", "mapped")


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize(
    ("dtype", "limits", "stated"),
    [
        (np.uint8, (0, 255), None),
        (np.uint16, (0, 65535), None),
        (np.uint8, (0, 100), (0, 100)),
        (np.uint16, (0, 4095), (0, 4095)),
        (np.int32, (-1000, 3000), (-1000, 3000)),
        (np.float32, (-1.0, 1.0), (-1.0, 1.0)),
    ],
)
def test_values_of_every_type_are_rescaled_to_the_unit_range(tmp_path, kind, dtype, limits, stated):
    low, high = limits
    numbers = (low + LEVELS * (high - low)).astype(dtype)
    splits = load(kind, **write(tmp_path, kind, numbers), **({"range": stated} if stated else {}))
    assert np.abs(greys(splits) - (numbers.astype(float) - low) / (high - low)).max() <= 0.5 / 255 + 1e-6
    for part in splits.parts.values():
        assert part.value_range()[0] >= 0
        assert part.value_range()[1] <= 1


@pytest.mark.parametrize("kind", SOURCES)
def test_zeros_and_ones_are_black_and_white_with_a_warning(tmp_path, kind):
    """As in dSprites' file, or in masks."""
    options = write(tmp_path, kind, (np.arange(30) % 2).astype(np.uint8))
    with pytest.warns(UserWarning, match="0 and 1.*--dataset.range 0,255"):
        splits = load(kind, **options)
    assert greys(splits).tolist() == [0.0] * 15 + [1.0] * 15
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(kind, **options, range=(0, 255)).train.shape == (1, 4, 5)


@pytest.mark.parametrize("kind", SOURCES)
def test_twelve_bits_in_sixteen_are_warned_about(tmp_path, kind):
    options = write(tmp_path, kind, (LEVELS * 4095).astype(np.uint16))
    with pytest.warns(UserWarning, match="4095 of 65535.*--dataset.range 0,4095"):
        load(kind, **options)


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize(
    ("numbers", "stated"),
    [
        ((LEVELS * 600).astype(np.int32) - 100, None),
        ((LEVELS * 4095).astype(np.uint16), (0, 4000)),
        ((LEVELS * 2 - 1).astype(np.float32), (0, 1)),
    ],
)
def test_numbers_outside_their_range_are_refused(tmp_path, kind, numbers, stated):
    options = write(tmp_path, kind, numbers)
    with pytest.raises(DataError, match=r"outside their range(.*\n)*.*--dataset.range"):
        load(kind, **options, **({"range": stated} if stated else {})).train.gather(torch.arange(24))


def test_an_empty_range_is_refused(tmp_path):
    options = write(tmp_path, "array", (LEVELS * 255).astype(np.uint8))
    with pytest.raises(UsageError, match="LOW < HIGH"):
        load("array", **options, range=(1, 1))


def test_floats_with_opacity_need_a_range(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((20, 5, 6, 4)) * 255)
    with pytest.raises(DataError, match="pixels with opacity"):
        load("array", path=str(tmp_path / "a.npy"))
    images = load("array", path=str(tmp_path / "a.npy"), range=(0, 255)).train.images
    assert 0 <= images.min() <= images.max() <= 1


def test_the_range_of_many_short_rows_is_found_in_few_reads(tmp_path, monkeypatch):
    rows = np.random.default_rng(0).standard_normal((100_000, 2), dtype=np.float32)
    np.save(tmp_path / "a.npy", rows)
    splits = load("mapped", path=str(tmp_path / "a.npy"), memory_gb=1e-4)
    reads = []
    gather = MappedImages.gather
    monkeypatch.setattr(MappedImages, "gather", lambda self, index: reads.append(len(index)) or gather(self, index))
    assert splits.value_range == (rows.min(), rows.max())
    assert sorted(reads) == [10_000, 10_000, 80_000]
