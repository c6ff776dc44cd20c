from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import urllib.request
import warnings
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from vaekit.data import AugmentSpec, Batches, FileImages, Splits, TensorImages
from vaekit.data.arrays import MappedImages
from vaekit.errors import DataError, UsageError, VaekitError
from vaekit.interfaces import Dataset
from vaekit.roles import datasets
from vaekit.streams import Streams

BUILT_IN = (
    "array", "celeba", "cifar10", "digits", "emnist", "fashion_mnist", "folder", "huggingface", "kmnist", "latents", "mnist",
    "svhn",
)  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:.*so the images are dark")
DOWNLOADED = ("celeba", "cifar10", "emnist", "fashion_mnist", "kmnist", "mnist", "svhn")


def load(kind: str, **options) -> Splits:
    return datasets.build(datasets.spec(kind)(**options)).load()


def parts(splits: Splits) -> tuple[TensorImages, ...]:
    return splits.train, splits.validation, splits.test


def sizes(splits: Splits) -> list[int]:
    return [len(part) for part in parts(splits)]


def everything(splits: Splits) -> torch.Tensor:
    """All images, ordered by their first pixel, which numbers them."""
    images = torch.cat([part.gather(torch.arange(len(part))) for part in parts(splits)])
    return images[images[:, 0, 0, 0].argsort()]


@pytest.mark.parametrize("kind", BUILT_IN)
def test_every_dataset_is_registered_and_described(kind):
    cls = datasets.get(kind)
    assert issubclass(cls, Dataset)
    assert cls.default_likelihood in ("bce", "gaussian", {"kind": "gaussian", "link": "identity"})
    assert datasets.summary(kind).endswith(".")
    assert all(field.description for name, field in datasets.spec(kind).model_fields.items() if name != "kind")


def test_describing_datasets_imports_no_torch_and_loading_digits_no_torchvision():
    code = (
        "import sys; from vaekit.roles import datasets; import vaekit.data.specs;"
        "[datasets.summary(k) for k in datasets.kinds()];"
        "assert 'torch' not in sys.modules; datasets.get('digits')().load(); [datasets.get(k) for k in datasets.kinds()];"
        "assert 'torchvision' not in sys.modules and 'PIL' not in sys.modules"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, env={**os.environ, "VAEKIT_PLUGINS": "0"})


# digits and MNIST's family


def test_digits_are_from_mnist(shared_data):
    digits, mnist = load("digits"), load("mnist", data_root=str(shared_data))
    assert sizes(digits) == [8000, 1000, 1000]
    assert torch.equal(digits.train.images, mnist.train.images[:8000])
    assert torch.equal(digits.validation.images, mnist.validation.images[-1000:])
    assert torch.equal(digits.test.images, mnist.test.images[::10])
    for mine, full in ((digits.train, mnist.train.labels[:8000]), (digits.test, mnist.test.labels[::10])):
        assert torch.equal(mine.labels, full)


def test_digits_are_small_balanced_and_disjoint():
    digits = load("digits")
    assert digits.shape == (1, 28, 28)
    folder = Path(sys.modules[datasets.get("digits").__module__].__file__).parent
    assert (folder / "digits.npz").stat().st_size < 2_000_000
    assert "ShareAlike" in (folder / "digits.LICENSE.md").read_text("utf-8")
    for part in parts(digits):
        assert torch.bincount(part.labels).min() > 0.08 * len(part)
    images = torch.cat([part.images for part in parts(digits)]).flatten(1)
    assert len(images.unique(dim=0)) == len(images)


@pytest.mark.parametrize(("kind", "mean"), [("mnist", 0.1307), ("fashion_mnist", 0.2860)])
def test_real_sets_have_their_published_sizes_and_mean(shared_data, kind, mean, monkeypatch):
    monkeypatch.setenv("VAEKIT_DATA", str(shared_data))
    splits = load(kind)
    assert sizes(splits) == [55000, 5000, 10000]
    assert splits.train.class_names is not None
    assert len(splits.train.class_names) == 10
    total = sum(part.images.double().sum() for part in (splits.train, splits.validation))
    assert abs(total / (60000 * 784 * 255) - mean) < 1e-4


def write_idx(path: Path, array: np.ndarray, packed: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()
    path.with_name(path.name + ".gz" * packed).write_bytes(gzip.compress(content) if packed else content)


def write_family(root: Path, stems: list[str], first_label: int = 0, packed: bool = False) -> None:
    for stem, num in zip(stems, (12, 5), strict=True):
        images = np.arange(num * 6, dtype=np.uint8).reshape(num, 2, 3)
        write_idx(root / f"{stem}-images-idx3-ubyte", images, packed)
        write_idx(root / f"{stem}-labels-idx1-ubyte", (np.arange(num) % 10 + first_label).astype(np.uint8), packed)


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_read_packed_or_not_from_a_folder_that_cannot_be_written(tmp_path, packed):
    write_family(tmp_path, ["KMNIST/raw/train", "KMNIST/raw/t10k"], packed=packed)
    tmp_path.chmod(0o555)
    splits = load("kmnist", data_root=str(tmp_path), validation=2, download=False)
    assert sizes(splits) == [10, 2, 5]
    assert splits.validation.labels.tolist() == [0, 1]
    assert splits.train.images[1].tolist() == [[[6, 7, 8], [9, 10, 11]]]


def test_emnist_is_upright_and_labels_start_at_zero(tmp_path):
    write_family(tmp_path, [f"EMNIST/raw/emnist-letters-{part}" for part in ("train", "test")], first_label=1)
    splits = load("emnist", split="letters", data_root=str(tmp_path), validation=2)
    assert splits.shape == (1, 3, 2)
    assert splits.train.images[0].tolist() == [[[0, 3], [1, 4], [2, 5]]]
    assert splits.train.labels.min() == 0
    assert splits.train.class_names[:2] == ("a", "b")


@pytest.mark.parametrize(("split", "num"), [("balanced", 47), ("bymerge", 47), ("byclass", 62), ("digits", 10), ("mnist", 10)])
def test_emnist_names_as_many_classes_as_its_split_has(tmp_path, split, num):
    write_family(tmp_path, [f"EMNIST/raw/emnist-{split}-{part}" for part in ("train", "test")])
    assert len(set(load("emnist", split=split, data_root=str(tmp_path), validation=2).train.class_names)) == num


@pytest.mark.parametrize("damage", [b"", b"\x00\x00\x08\x03\x00", b"no idx file"])
def test_a_damaged_idx_file_is_named(tmp_path, damage):
    write_family(tmp_path, ["MNIST/raw/train", "MNIST/raw/t10k"])
    (tmp_path / "MNIST/raw/t10k-images-idx3-ubyte").write_bytes(damage)
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte"):
        load("mnist", data_root=str(tmp_path), validation=2)


@pytest.mark.parametrize("kind", DOWNLOADED)
def test_offline_downloads_fail_with_instructions_and_leave_nothing(tmp_path, kind, monkeypatch):
    def offline(*_args, **_settings):
        raise URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    if kind == "celeba":  # torchvision asks for gdown first
        monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(DataError) as caught:
        load(kind, data_root=str(tmp_path / "data"))
    assert str(tmp_path / "data") in str(caught.value)
    assert "--dataset digits" in str(caught.value)
    assert "the download failed" in str(caught.value)
    assert not list((tmp_path / "data").rglob("*"))
    with pytest.raises(DataError, match="downloading is disabled"):
        load(kind, data_root=str(tmp_path / "data"), download=False)


def test_a_download_is_stored_in_the_searched_folder(tmp_path, monkeypatch):
    cls = datasets.get("kmnist")
    write = staticmethod(lambda folder: write_family(Path(folder), ["KMNIST/raw/train", "KMNIST/raw/t10k"]))
    monkeypatch.setattr(cls, "fetch", write)
    assert sizes(load("kmnist", data_root=str(tmp_path), validation=2)) == [10, 2, 5]
    monkeypatch.setattr(cls, "fetch", None)  # not called again
    assert sizes(load("kmnist", data_root=str(tmp_path), validation=2)) == [10, 2, 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["KMNIST"]


# Colour sets, from files of their formats


def test_cifar10_is_read_from_its_binary_batches(tmp_path):
    records = np.random.default_rng(0).integers(0, 256, (6, 4, 3073), dtype=np.uint8)
    records[:, :, 0] %= 10
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name, batch in zip([f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"], records, strict=True):
        batch.tofile(folder / name)
    splits = load("cifar10", data_root=str(tmp_path), validation=3)
    assert sizes(splits) == [17, 3, 4]
    assert torch.equal(splits.test.images[1], torch.from_numpy(records[5, 1, 1:].reshape(3, 32, 32)))
    assert splits.test.labels.tolist() == records[5, :, 0].tolist()
    (folder / "test_batch.bin").write_bytes(b"short")
    with pytest.raises(DataError, match=r"test_batch\.bin"):
        load("cifar10", data_root=str(tmp_path), validation=3)


def test_svhn_is_read_from_its_matlab_files(tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat
    images = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 6), dtype=np.uint8)
    for name in ("train", "test"):
        savemat(tmp_path / f"{name}_32x32.mat", {"X": images, "y": np.array([[10], [1], [2], [3], [4], [5]], np.uint8)})
    splits = load("svhn", data_root=str(tmp_path), validation=2)
    assert sizes(splits) == [4, 2, 6]
    assert splits.test.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(splits.test.images[1], torch.from_numpy(images[..., 1].transpose(2, 0, 1).copy()))
    (tmp_path / "test_32x32.mat").write_bytes(b"not a MATLAB file" * 100)
    with pytest.raises(DataError, match="test_32x32"):
        load("svhn", data_root=str(tmp_path), validation=2)


@pytest.mark.parametrize(("memory_gb", "source"), [(4.0, TensorImages), (0.0, FileImages)])
def test_celeba_keeps_its_official_partition(tmp_path, memory_gb, source):
    folder = tmp_path / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    for i in range(6):
        Image.new("RGB", (178, 218), (i * 40, 0, 0)).save(folder / f"{i}.jpg")
    (tmp_path / "celeba/list_eval_partition.txt").write_text("0.jpg 0\n1.jpg 1\n2.jpg 2\n3.jpg 0\n4.jpg 0\n5.jpg 2\n")
    splits = load("celeba", data_root=str(tmp_path), memory_gb=memory_gb)
    assert splits.shape == (3, 64, 64)
    assert sizes(splits) == [3, 1, 2]
    assert isinstance(splits.train, source)
    assert [round(int(splits.test.gather(torch.tensor([i]))[0, 0, 9, 9]) / 40) for i in (0, 1)] == [2, 5]


# A folder of images


def picture(i: int, size: tuple[int, int] = (8, 6)) -> Image.Image:
    return Image.new("RGB", size, (i, 2 * i, 3 * i))


def write_folder(folder: Path, num: int = 20, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    for i in range(num):
        file = folder / classes[i % len(classes)] / f"{i:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(file)
    return folder


def test_a_folder_is_split_disjointly_and_labelled_by_subfolder(tmp_path):
    splits = load("folder", path=str(write_folder(tmp_path)))
    assert splits.shape == (3, 6, 8)
    assert sizes(splits) == [16, 2, 2]
    assert everything(splits)[:, 0, 0, 0].tolist() == list(range(20))
    assert splits.train.class_names == ("cat", "dog")
    for part in parts(splits):
        assert torch.equal(part.labels, part.images[:, 0, 0, 0].long() % 2)


@pytest.mark.parametrize("classes", [(".",), ("only",)])
def test_a_single_subfolder_gives_no_labels(tmp_path, classes):
    assert load("folder", path=str(write_folder(tmp_path, classes=classes))).train.labels is None


def test_a_folder_beyond_the_budget_is_streamed_and_gives_the_same_batches(tmp_path):
    write_folder(tmp_path)
    resident, streamed = (load("folder", path=str(tmp_path), memory_gb=gb, size=(5, 7)) for gb in (1.0, 0.0))
    assert isinstance(resident.train, TensorImages)
    assert isinstance(streamed.train, FileImages)
    for mine, other in zip(parts(resident), parts(streamed), strict=True):
        a, b = (Batches(s, batch_size=2, streams=Streams(0)).epoch(0) for s in (mine, other))
        assert all(torch.equal(p.x, q.x) and torch.equal(p.y, q.y) for p, q in zip(a, b, strict=True))


def test_size_and_channels_set_the_shape(tmp_path):
    write_folder(tmp_path)
    picture(99, (31, 17)).save(tmp_path / "cat" / "large.jpg")
    assert load("folder", path=str(tmp_path), size=12, channels="grey", fit="pad").shape == (1, 12, 12)
    with pytest.raises(DataError, match=r"large\.jpg is 31×17.*\n(.*\n)*.*--dataset\.size"):
        load("folder", path=str(tmp_path))
    with pytest.raises(UsageError, match="1 or more"):
        load("folder", path=str(tmp_path), size=0)


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_a_broken_image_is_an_error_or_is_skipped_with_a_warning(tmp_path, memory_gb):
    write_folder(tmp_path)
    (tmp_path / "cat" / "bad.png").write_bytes((tmp_path / "cat" / "000.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"bad\.png"):
        load("folder", path=str(tmp_path))
    with pytest.warns(UserWarning, match=r"1 of 21 images cannot be read and are skipped: .*bad\.png"):
        splits = load("folder", path=str(tmp_path), on_bad_image="skip", memory_gb=memory_gb)
    assert sum(sizes(splits)) == 20


def test_folders_without_a_dataset_are_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load("folder", path=str(tmp_path / "absent"))
    with pytest.raises(DataError, match="no images"):
        load("folder", path=str(tmp_path))
    write_folder(tmp_path, 2)
    with pytest.raises(DataError, match="too few"):
        load("folder", path=str(tmp_path))


# Array files


def numbered(num: int = 20, shape: tuple[int, ...] = (5, 6)) -> np.ndarray:
    return (np.zeros((num, *shape)) + np.arange(num).reshape(-1, *[1] * len(shape))).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "key", "num", "shape"),
    [
        ("faces/frey_1965x28x20.npz", "images", 1965, (1, 28, 20)),
        ("faces/olivetti_400x64x64.npz", "x", 400, (1, 64, 64)),
        ("emoji/noto_emoji_rgba64.npz", "x", 3786, (3, 64, 64)),
    ],
)
def test_real_arrays_load_whole(shared_data, name, key, num, shape):
    splits = load("array", path=str(shared_data / name))
    assert splits.shape == shape
    assert sum(sizes(splits)) == num
    with np.load(shared_data / name) as file:
        total = file[key].astype(np.int64).sum() if shape[0] == 1 else None
    if total is not None:
        assert sum(int(part.images.long().sum()) for part in parts(splits)) == total
    else:
        assert splits.train.images[:, :, 0, 0].float().mean() > 200  # corners of emoji are transparent: white


@pytest.mark.parametrize(
    ("shape", "expected"), [((5, 6), (1, 5, 6)), ((5, 6, 3), (3, 5, 6)), ((3, 5, 6), (3, 5, 6)), ((1, 5, 6), (1, 5, 6))]
)
@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_layouts_are_read_from_the_shape(tmp_path, shape, expected, memory_gb):
    np.save(tmp_path / "a.npy", numbered(20, shape))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*so the images are dark")
        splits = load("array", path=str(tmp_path / "a.npy"), memory_gb=memory_gb)
    assert splits.shape == expected
    assert isinstance(splits.train, TensorImages if memory_gb else MappedImages)
    assert everything(splits)[:, -1, -1, -1].tolist() == list(range(20))


@pytest.mark.parametrize(
    ("layout", "shape", "expected"),
    [
        (None, (7,), (7,)),
        ("NF", (7,), (7,)),
        ("NL", (7,), (1, 7)),
        ("NCL", (2, 7), (2, 7)),
        ("NLC", (7, 2), (2, 7)),
        ("NCL", (4, 7), (4, 7)),
        (None, (4, 2, 5, 6), (4, 2, 5, 6)),
        ("NHWC", (5, 6, 2), (2, 5, 6)),
        ("NCHW", (7, 5, 6), (7, 5, 6)),
        ("NDHW", (4, 5, 6), (1, 4, 5, 6)),
        (None, (3, 4, 5, 6), (3, 4, 5, 6)),
        ("NCDHW", (2, 4, 5, 6), (2, 4, 5, 6)),
        ("NDHWC", (4, 5, 6, 2), (2, 4, 5, 6)),
    ],
)
@pytest.mark.parametrize("file", ["npy", "mapped", "npz", "safetensors"])
def test_an_explicit_layout_allows_any_number_of_channels(tmp_path, layout, shape, expected, file):
    array, path = np.random.default_rng(0).random((20, *shape), np.float32), tmp_path / f"a.{file.replace('mapped', 'npy')}"
    array[:, *(0,) * len(shape)] = np.arange(20)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez(path, x=array, y=np.zeros((20, 1), int))
    else:
        save_file({"x": array, "label": np.arange(20)}, path)
    splits = load("array", path=str(path), layout=layout, memory_gb=0.0 if file == "mapped" else 1.0)
    assert splits.shape == expected
    assert splits.facts.data_shape == expected
    read = torch.cat([part.gather(torch.arange(len(part))) for part in parts(splits)])
    read = read[read.flatten(1)[:, 0].argsort()]
    if layout is not None and "C" in layout:
        array = np.moveaxis(array, layout.index("C"), 1)
    assert torch.equal(read, torch.from_numpy(array).view(20, *expected))
    if file in ("npz", "safetensors"):
        assert splits.train.labels is not None


@pytest.mark.parametrize(
    ("shape", "fits"),
    [((8, 9, 10), "NHWC or NCHW or NDHW"), ((3, 9, 10, 3), "NCDHW or NDHWC"), ((5, 9, 10, 7), "NCDHW or NDHWC")],
)
def test_an_ambiguous_layout_of_more_axes_lists_the_candidates(tmp_path, shape, fits):
    np.save(tmp_path / "a.npy", np.zeros((20, *shape), np.float32))
    with pytest.raises(UsageError, match=rf"ambiguous(.*\n)*.*{fits}(.*\n)*.*--dataset\.layout"):
        load("array", path=str(tmp_path / "a.npy"))


def test_integers_are_numbers_in_tables_and_signals_and_pixels_in_volumes(tmp_path):
    np.save(tmp_path / "a.npy", np.tile(np.array([-3, 40_000]), (20, 1)))
    for layout in ("NF", "NL"):
        train = load("array", path=str(tmp_path / "a.npy"), layout=layout).train
        assert train.images[0].flatten().tolist() == [-3, 40_000]
        assert not train.integer
    scaled = load("array", path=str(tmp_path / "a.npy"), range=(-3.0, 40_000.0))
    assert scaled.train.images[0].tolist() == [0, 1]
    np.save(tmp_path / "b.npy", numbered(20, (2, 3, 3, 4)))
    assert load("array", path=str(tmp_path / "b.npy"), layout="NCDHW").train.integer


def test_images_take_precedence_over_tables_in_an_archive(tmp_path):
    np.savez(tmp_path / "a.npz", images=numbered(), train_features=np.zeros((20, 3)), y=np.zeros((20, 1), int))
    assert load("array", path=str(tmp_path / "a.npz")).shape == (1, 5, 6)
    assert load("array", path=str(tmp_path / "a.npz"), layout="NF").shape == (3,)


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_missing_values_are_kept_until_checked(tmp_path, memory_gb):
    array = np.random.default_rng(0).random((40, 3)).astype(np.float32)
    array[::2, 1] = np.nan
    np.save(tmp_path / "a.npy", array)
    splits = load("array", path=str(tmp_path / "a.npy"), memory_gb=memory_gb)
    assert splits.train.has_missing
    assert splits.value_range == (0.0, 1.0)
    low, high = splits.train.value_range()
    assert 0 < low < high < 1
    assert splits.with_missing("zeros").facts.missing == "zeros"
    with pytest.raises(DataError, match=r"values are missing(.*\n)*.*NaN(.*\n)*.*--missing zeros"):
        splits.with_missing("refuse").train.gather(torch.arange(32))
    ranged = load("array", path=str(tmp_path / "a.npy"), memory_gb=memory_gb, range=(0.0, 2.0)).train.gather(torch.arange(32))
    plain = splits.train.gather(torch.arange(32))
    assert torch.allclose(ranged, plain / 2, equal_nan=True)


@pytest.mark.parametrize("binarize", ["threshold", "static", "dynamic"])
def test_binarisation_of_any_shape_keeps_missing_values(binarize):
    examples = torch.rand(30, 7)
    examples[::3, 2] = torch.nan
    for train in (True, False):
        batches = Batches(TensorImages(examples), batch_size=10, streams=Streams(0), binarize=binarize, train=train)
        for batch in batches.epoch(0):
            assert torch.equal(batch.x.isnan(), examples[batch.index].isnan())
            assert set(batch.x[~batch.x.isnan()].tolist()) == {0.0, 1.0}
    fixed = batches.fixed(torch.arange(30))
    assert torch.equal(fixed.isnan(), examples.isnan())


def test_the_memory_format_is_that_of_images():
    for shape in ((7,), (2, 9), (2, 5, 4), (1, 2, 3, 4)):
        source, last = TensorImages(torch.rand(30, *shape)), torch.channels_last
        (batch, *_) = Batches(source, batch_size=10, streams=Streams(0), memory_format=last).epoch(0)
        assert batch.x.is_contiguous(memory_format=last) == (len(shape) == 3)


def test_augmentation_of_non_images_is_refused():
    with pytest.raises(UsageError, match=r"augmentation works on images only(.*\n)*.*\(2, 9\)"):
        Batches(TensorImages(torch.rand(30, 2, 9)), batch_size=10, streams=Streams(0), augment=AugmentSpec(rotate=5))


def test_a_mapped_array_gives_the_same_batches_also_by_workers(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((40, 5, 6)))
    resident, mapped = (load("array", path=str(tmp_path / "a.npy"), memory_gb=gb).train for gb in (1.0, 0.0))
    assert mapped.value_range() == resident.value_range()
    runs = [
        Batches(source, batch_size=8, streams=Streams(0), binarize="dynamic", workers=workers).epoch(0)
        for source, workers in ((resident, 0), (mapped, 0), (mapped, 1))
    ]
    for a, b, c in zip(*runs, strict=True):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.x, c.x)


def test_an_ambiguous_layout_must_be_named(tmp_path):
    np.save(tmp_path / "a.npy", numbered(20, (3, 5, 4)))
    with pytest.raises(UsageError, match=r"NHWC or NCHW(.*\n)*.*--dataset\.layout"):
        load("array", path=str(tmp_path / "a.npy"))
    assert load("array", path=str(tmp_path / "a.npy"), layout="NCHW").shape == (3, 5, 4)
    with pytest.raises(UsageError, match="does not have that layout"):
        load("array", path=str(tmp_path / "a.npy"), layout="NHW")


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([True, False]), [255, 0]),
        (np.array([257 * 9, 65535], np.uint16), [9, 255]),
        (np.array([3, 255], np.int64), [3, 255]),
        (np.array([-2.5, 300.0], np.float64), [-2.5, 300.0]),
        (np.array([0.5, 1.0], np.float16), [0.5, 1.0]),
    ],
)
def test_types_of_numbers(tmp_path, array, expected):
    np.save(tmp_path / "a.npy", np.resize(array, (20, 1, 2)))
    splits = load("array", path=str(tmp_path / "a.npy"))
    assert splits.train.images[0, 0, 0].tolist() == expected
    assert splits.train.integer == (array.dtype.kind != "f")


def test_floats_with_opacity_are_composited_onto_white(tmp_path):
    np.save(tmp_path / "a.npy", np.broadcast_to(np.array([0.2, 0.4, 0.6, 0.5], np.float32), (20, 5, 6, 4)))
    assert torch.allclose(load("array", path=str(tmp_path / "a.npy")).train.images[0, :, 0, 0], torch.tensor([0.6, 0.7, 0.8]))


def test_archives_choose_their_images_and_labels_by_name(tmp_path):
    names = np.array(["b", "a"] * 10)
    np.savez(tmp_path / "a.npz", faces=numbered(), more=numbered(), labels=names)
    with pytest.raises(DataError, match=r"several(.*\n)*.*--dataset\.key"):
        load("array", path=str(tmp_path / "a.npz"))
    with pytest.raises(UsageError, match="faces, more, labels"):
        load("array", path=str(tmp_path / "a.npz"), key="wrong")
    splits = load("array", path=str(tmp_path / "a.npz"), key="faces")
    assert splits.train.class_names == ("a", "b")
    assert torch.equal(splits.train.labels, 1 - splits.train.images[:, 0, 0, 0].long() % 2)
    save_file({"x": numbered(), "y": np.arange(20)}, tmp_path / "a.safetensors")
    splits = load("array", path=str(tmp_path / "a.safetensors"), labels="y")
    assert torch.equal(splits.train.labels, splits.train.images[:, 0, 0, 0].long())


def encoded(i: int, size: tuple[int, int] = (6, 5)) -> bytes:
    buffer = io.BytesIO()
    picture(i, size).save(buffer, "PNG")
    return buffer.getvalue()


def test_parquet_holds_lists_of_numbers(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    values = pa.array(numbered().flatten(), pa.uint8())
    column = pa.FixedSizeListArray.from_arrays(pa.FixedSizeListArray.from_arrays(values, 6), 5)
    pq.write_table(pa.table({"pixels": column, "name": list("ab") * 10}), tmp_path / "b.parquet")
    assert everything(load("array", path=str(tmp_path / "b.parquet"), labels="name"))[:, 0, 0, 0].tolist() == list(range(20))
    rows = [{"bytes": encoded(i), "path": f"{i}.png"} for i in range(20)]
    pq.write_table(pa.table({"image": rows, "label": list(range(20))}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match="--dataset huggingface"):
        load("array", path=str(tmp_path / "c.parquet"))


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r"vaekit\[parquet\]"):
        load("array", path=str(tmp_path / "a.parquet"))


def test_pickled_objects_are_refused(tmp_path):
    objects = np.array([{"code": "runs"}] * 20, dtype=object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", images=objects)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(DataError, match="pickled objects"):
            load("array", path=str(tmp_path / name))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".parquet"])
@pytest.mark.parametrize("content", [b"", b"not an array", json.dumps({"a": 1}).encode() * 20])
def test_files_of_anything_else_are_refused(tmp_path, suffix, content):
    file = tmp_path / f"a{suffix}"
    file.write_bytes(content)
    with pytest.raises(DataError, match="cannot read"):
        load("array", path=str(file))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((20, 5, 6), 256), "outside their range"),
        (np.full((20, 5, 6), np.inf), "not finite"),
        (np.zeros((20, 5, 6), np.complex64), "type"),
        (np.zeros(20, np.uint8), "array cannot hold examples"),
        (np.zeros((0, 5, 6), np.uint8), "array cannot hold examples"),
    ],
)
def test_arrays_that_are_not_examples_are_refused(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=message):
        load("array", path=str(tmp_path / "a.npy"))


def test_only_requested_arrays_are_read(tmp_path):
    pickled = np.array([{"a": 1}] * 20, dtype=object)
    np.savez(tmp_path / "a.npz", images=numbered(), meta=pickled, label=np.arange(20).reshape(20, 1) % 2)
    splits = load("array", path=str(tmp_path / "a.npz"))
    assert torch.equal(splits.train.labels, splits.train.images[:, 0, 0, 0].long() % 2)
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pixels = pa.array([image.tolist() for image in numbered()], pa.list_(pa.list_(pa.uint8())))
    ragged = pa.array([[1] * (1 + i % 3) for i in range(20)])
    pq.write_table(pa.table({"pixels": pixels, "boxes": ragged, "label": list(range(20))}), tmp_path / "a.parquet")
    assert load("array", path=str(tmp_path / "a.parquet")).train.labels is not None


@pytest.mark.parametrize(
    ("labels", "expected", "names"),
    [
        (np.arange(20) % 2 == 1, [0, 1], None),
        (np.array(["a", "b"] * 10).astype("S"), [0, 1], ("a", "b")),
        (np.array(["caf\u00e9".encode("latin-1"), b"bar"] * 10), [1, 0], ("bar", "caf\u00e9")),
        (np.arange(20.0) % 2, [0, 1], None),
    ],
)
def test_types_of_labels(tmp_path, labels, expected, names):
    np.savez(tmp_path / "a.npz", images=numbered(), labels=labels)
    splits = load("array", path=str(tmp_path / "a.npz"))
    numbers = torch.cat([part.labels for part in parts(splits)])[
        torch.cat([p.images[:, 0, 0, 0] for p in parts(splits)]).argsort()
    ]
    assert numbers[:2].tolist() == expected
    assert splits.train.class_names == names


def test_unsuitable_labels_are_ignored_unless_requested(tmp_path):
    np.savez(tmp_path / "a.npz", images=numbered(), labels=np.zeros((20, 14)))
    with pytest.warns(UserWarning, match=r"labels is ignored.*\(20, 14\)"):
        assert load("array", path=str(tmp_path / "a.npz")).train.labels is None
    with pytest.raises(DataError, match="cannot hold labels"):
        load("array", path=str(tmp_path / "a.npz"), labels="labels")


@pytest.mark.parametrize("names", [("{}_images", "{}_labels", "val"), ("x_{}", "y_{}", None)])
def test_the_splits_of_an_archive_are_kept(tmp_path, names):
    images, labels, validation = names
    num = {"train": 20, validation: 6, "test": 4}
    start = {"train": 0, validation: 20, "test": 30}
    arrays = {images.format(name): numbered(start[name] + num[name])[start[name] :] for name in num if name}
    arrays |= {labels.format(name): np.arange(num[name]).reshape(-1, 1) % 3 for name in num if name}
    np.savez(tmp_path / "a.npz", **arrays)
    splits = load("array", path=str(tmp_path / "a.npz"))
    assert sizes(splits) == ([20, 6, 4] if validation else [18, 2, 4])
    assert splits.test.images[:, 0, 0, 0].tolist() == [30, 31, 32, 33]
    assert splits.test.labels.tolist() == [0, 1, 2, 0]
    assert sizes(load("array", path=str(tmp_path / "a.npz"), test=0.25))[2] == 5
    assert (
        sum(sizes(load("array", path=str(tmp_path / "a.npz"), key=images.format("train"), labels=labels.format("train")))) == 20
    )


def test_splits_of_different_shapes_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=numbered(), x_test=numbered(20, (6, 5)))
    with pytest.raises(DataError, match="different shapes"):
        load("array", path=str(tmp_path / "a.npz"))


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_every_damaged_array_file_is_refused(tmp_path, suffix):
    """Files damaged at each of 200 positions are either rejected with a short error or read as numbers."""
    file = tmp_path / f"a{suffix}"
    (np.save if suffix == ".npy" else np.savez_compressed)(file, np.random.default_rng(0).integers(0, 256, (20, 5, 6), np.uint8))
    whole, refused = file.read_bytes(), 0
    for place in np.linspace(0, len(whole) - 1, 200).astype(int):
        for damaged in (whole[:place], whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]):
            file.write_bytes(damaged)
            try:
                load("array", path=str(file))
            except VaekitError:
                refused += 1
    assert refused > 200


def test_a_truncated_mapped_file_is_named(tmp_path):
    np.save(tmp_path / "a.npy", numbered(40))
    train = load("array", path=str(tmp_path / "a.npy"), memory_gb=0).train
    np.save(tmp_path / "a.npy", numbered(10))
    with pytest.raises(DataError, match=r"has changed(.*\n)*.*a\.npy"):
        train.gather(torch.arange(len(train)))


def test_unsuitable_paths_and_options_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", numbered())
    (tmp_path / "a.txt").write_text("text")
    for options in ({"path": "absent.npy"}, {"path": "a.txt"}, {"path": "a.npy", "key": "x"}):
        with pytest.raises(VaekitError):
            load("array", **{**options, "path": str(tmp_path / options["path"])})


# Sets of Hugging Face


@pytest.fixture
def library(tmp_path, monkeypatch):
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
    return library


def table(library, num: int = 20, start: int = 0, **columns):
    rows = [{"bytes": encoded(i), "path": None} for i in range(start, start + num)]
    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=["cat", "dog"])})
    made = library.Dataset.from_dict({"image": rows, "label": [i % 2 for i in range(num)]}, features)
    for name, values in columns.items():
        made = made.add_column(name, values)
    return made


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
@pytest.mark.parametrize("stored_as", ["saved", "parquet file", "folder of parquet"])
def test_pictures_of_a_table_match_its_rows(tmp_path, library, stored_as, memory_gb):
    path = tmp_path / "set"
    if stored_as == "saved":
        table(library).save_to_disk(path, num_shards=3)
    else:
        path.mkdir()
        pieces = [table(library, 10, start) for start in (0, 10)] if stored_as == "folder of parquet" else [table(library)]
        for i, part in enumerate(pieces):
            part.to_parquet(path / f"{i}.parquet")
        path = path / "0.parquet" if stored_as == "parquet file" else path
    splits = load("huggingface", path=str(path), memory_gb=memory_gb)
    assert splits.shape == (3, 5, 6)
    assert sizes(splits) == [16, 2, 2]
    assert isinstance(splits.train, TensorImages if memory_gb else FileImages)
    assert everything(splits)[:, :, 0, 0].tolist() == [[i, 2 * i, 3 * i] for i in range(20)]
    assert splits.train.class_names == ("cat", "dog")
    for part in parts(splits):
        assert torch.equal(part.labels, part.gather(torch.arange(len(part)))[:, 0, 0, 0].long() % 2)


def test_a_table_beyond_the_budget_gives_the_same_batches_also_by_workers(tmp_path, library):
    table(library, 40).save_to_disk(tmp_path / "set", num_shards=3)
    resident, streamed = (load("huggingface", path=str(tmp_path / "set"), size=4, memory_gb=gb).train for gb in (1.0, 0.0))
    runs = [
        list(Batches(source, batch_size=8, streams=Streams(0), workers=workers).epoch(0))
        for source, workers in ((resident, 0), (streamed, 0), (streamed, 2))
    ]
    assert len(runs[0]) == 4
    for a, b, c in zip(*runs, strict=True):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.x, c.x)
        assert torch.equal(a.y, c.y)


def test_a_table_keeps_its_own_splits_unless_fractions_are_given(tmp_path, library):
    own = {"train": table(library, 20), "val": table(library, 5, 20), "test": table(library, 4, 25), "extra": table(library, 3)}
    for i, (names, options, expected) in enumerate(
        [
            (("train", "val", "test", "extra"), {}, [20, 5, 4]),
            (("train", "test"), {}, [18, 2, 4]),
            (("train", "val"), {"test": 0.2}, [16, 5, 4]),
            (("train", "val", "test"), {"validation": 0.2}, [16, 4, 4]),
            (("extra",), {}, [1, 1, 1]),
        ]
    ):
        library.DatasetDict({name: own[name] for name in names}).save_to_disk(tmp_path / str(i))
        splits = load("huggingface", path=str(tmp_path / str(i)), **options)
        assert sizes(splits) == expected
        if names == ("train", "val", "test", "extra"):
            assert [part.images[0, 0, 0, 0].item() for part in parts(splits)] == [0, 20, 25]
    library.DatasetDict({"val": own["val"], "test": own["test"]}).save_to_disk(tmp_path / "none")
    with pytest.raises(DataError, match="no training split"):
        load("huggingface", path=str(tmp_path / "none"))


def test_columns_of_a_table_are_found_or_named(tmp_path, library):
    path = str(tmp_path / "set")
    made = table(library, mask=[encoded(100 + i) for i in range(20)], breed=list("ab") * 10, note=[[1], [2, 3]] * 10)
    made.save_to_disk(path)
    with pytest.raises(DataError, match=r"several(.*\n)*.*image, mask(.*\n)*.*--dataset\.image"):
        load("huggingface", path=path)
    splits = load("huggingface", path=path, image="mask", labels="breed", channels="grey", size=(4, 3))
    assert splits.shape == (1, 4, 3)
    assert splits.train.class_names == ("a", "b")
    for options in (
        {"image": "label"},
        {"image": "absent"},
        {"image": "mask", "labels": "absent"},
        {"image": "image", "config": "x"},
    ):
        with pytest.raises(UsageError, match=r"image, label, mask|configurations"):
            load("huggingface", path=path, **options)
    with pytest.raises(DataError, match=r"differ in shape|cannot hold labels"):
        load("huggingface", path=path, image="image", labels="note")
    made.remove_columns(["image", "mask"]).save_to_disk(tmp_path / "numbers")
    with pytest.raises(DataError, match="--dataset array"):
        load("huggingface", path=str(tmp_path / "numbers"))


def test_splits_may_differ_in_unused_columns(tmp_path, library):
    """Columns of other types, and class names in another order, whose labels are then aligned."""
    parts_of = {"train": ["cat", "dog"], "test": ["dog", "cat"]}
    made = library.DatasetDict()
    for i, (name, names) in enumerate(parts_of.items()):
        features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=names)})
        rows = [{"bytes": encoded(10 * i + j), "path": None} for j in range(10)]
        part = library.Dataset.from_dict({"image": rows, "label": [0] * 10}, features)
        made[name] = part.add_column("note", ([1.5] if i else ["text"]) * 10)
    made.save_to_disk(tmp_path / "set")
    splits = load("huggingface", path=str(tmp_path / "set"))
    assert splits.train.class_names == splits.test.class_names == ("cat", "dog")
    assert splits.train.labels.unique().tolist() == [0]
    assert splits.test.labels.unique().tolist() == [1]


def test_arrays_in_a_table_are_numeric(tmp_path, library):
    features = library.Features({"pixels": library.Array2D((5, 6), "uint8"), "label": library.Value("int64")})
    made = library.Dataset.from_dict({"pixels": list(numbered()), "label": list(range(20))}, features)
    made.to_parquet(tmp_path / "a.parquet")
    assert everything(load("array", path=str(tmp_path / "a.parquet")))[:, 0, 0, 0].tolist() == list(range(20))
    made.add_column("image", [encoded(i) for i in range(20)]).save_to_disk(tmp_path / "both")
    assert load("huggingface", path=str(tmp_path / "both")).shape == (3, 5, 6)


def test_unread_frames_of_a_table_are_warned_about(tmp_path, library):
    buffer = io.BytesIO()
    picture(0, (6, 5)).save(buffer, "GIF", save_all=True, append_images=[picture(9, (6, 5))])
    rows = [{"bytes": buffer.getvalue() if i < 3 else encoded(i), "path": None} for i in range(20)]
    library.Dataset.from_dict({"image": rows}, library.Features({"image": library.Image()})).save_to_disk(tmp_path / "set")
    with pytest.warns(UserWarning, match="3 of 20 images have several frames or pages"):
        assert load("huggingface", path=str(tmp_path / "set")).train.shape == (3, 5, 6)


def test_partial_labels_are_ignored_unless_requested(tmp_path, library):
    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=["cat"])})
    rows = [{"bytes": encoded(i), "path": None} for i in range(6)]
    library.Dataset.from_dict({"image": rows, "label": [0] * 5 + [-1]}, features).save_to_disk(tmp_path / "set")
    assert load("huggingface", path=str(tmp_path / "set")).train.labels is None
    with pytest.raises(DataError, match="no label"):
        load("huggingface", path=str(tmp_path / "set"), labels="label")


def test_a_broken_row_is_named(tmp_path, library):
    features = library.Features({"image": library.Image()})
    for content, message in ((b"no picture", "cannot read the image in row 4 of column image"), (None, "missing in row 4")):
        rows = [{"bytes": encoded(i), "path": None} for i in range(6)]
        rows[4] = content and {"bytes": content, "path": None}
        library.Dataset.from_dict({"image": rows}, features).save_to_disk(tmp_path / message[:4])
        with pytest.raises(DataError, match=message):
            load("huggingface", path=str(tmp_path / message[:4]), size=4)


def test_unavailable_sets_are_refused(tmp_path, library, monkeypatch):
    for path in ("someone/some-set", str(tmp_path / "absent"), str(tmp_path)):
        with pytest.raises(DataError, match=r"cannot read the dataset(.*\n)*.*save_to_disk(.*\n)*.*network"):
            load("huggingface", path=path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"vaekit\[huggingface\]"):
        load("huggingface", path="someone/some-set")
