from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from vaekit.data import AugmentSpec, Batch, Batches, Binarize, FileImages, TensorImages
from vaekit.data.arrays import MappedImages
from vaekit.data.images import ImageReader
from vaekit.errors import DataError, UsageError
from vaekit.streams import Streams

EVERYTHING = AugmentSpec(rotate=20, translate=0.1, scale=(0.8, 1.2), flip="both", brightness=0.2, contrast=0.2)


def grey(num: int = 37, shape: tuple[int, int, int] = (1, 6, 5), seed: int = 0) -> TensorImages:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (num, *shape), generator=generator, dtype=torch.uint8)
    return TensorImages(images, torch.arange(num) % 10, tuple("0123456789"))


def batches(source=None, *, batch_size: int = 8, seed: int = 0, **settings) -> Batches:
    return Batches(source or grey(), batch_size=batch_size, streams=Streams(seed), **settings)


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("x", "inputs", "y", "index"))


def all_same(a, b) -> bool:
    return all(same(p, q) for p, q in zip(a, b, strict=True))


def joined(parts: list[Batch]) -> Batch:
    return Batch(*(torch.cat([getattr(p, name) for p in parts]) for name in ("x", "inputs", "y", "index")))


def test_bytes_are_scaled_to_the_unit_interval_and_labels_follow_their_images():
    source = grey()
    for batch in batches(source).epoch(0):
        assert batch.x.dtype == torch.float32
        assert batch.inputs is batch.x
        assert torch.equal(batch.x, source.images[batch.index].float() / 255)
        assert torch.equal(batch.y, batch.index % 10)


def test_training_drops_the_short_last_batch_and_evaluation_keeps_it():
    assert [len(b.x) for b in batches().epoch(0)] == [8] * 4
    evaluation = list(batches(train=False).epoch(0))
    assert [len(b.x) for b in evaluation] == [8] * 4 + [5]
    assert torch.equal(torch.cat([b.index for b in evaluation]), torch.arange(37))
    assert batches().steps_per_epoch == 4
    assert batches(train=False).steps_per_epoch == 5


def test_the_order_is_a_function_of_seed_and_epoch():
    def order(seed: int, epoch: int) -> list[int]:
        return torch.cat([b.index for b in batches(seed=seed).epoch(epoch)]).tolist()

    assert order(0, 3) == order(0, 3)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    assert len(set(order(0, 0))) == 32


@pytest.mark.parametrize("binarize", get_args(Binarize))
@pytest.mark.parametrize("augment", [None, EVERYTHING], ids=["plain", "augmented"])
def test_ranks_together_see_what_one_rank_sees(binarize, augment):
    settings = {"binarize": binarize, "augment": augment}
    ranks = [list(batches(rank=rank, world_size=4, **settings).epoch(1)) for rank in range(4)]
    whole = list(batches(**settings).epoch(1))
    assert all_same([joined(list(parts)) for parts in zip(*ranks, strict=True)], whole)


def test_ranks_together_evaluate_every_image_once():
    ranks = [list(batches(train=False, binarize="dynamic", rank=rank, world_size=3).epoch(0)) for rank in range(3)]
    whole = list(batches(train=False, binarize="dynamic").epoch(0))
    assert all_same([joined(list(parts)) for parts in zip(*ranks, strict=True)], whole)


@pytest.mark.parametrize("binarize", ["none", "static", "dynamic"])
def test_an_epoch_resumed_midway_continues_with_the_same_batches(binarize):
    whole = list(batches(binarize=binarize, augment=EVERYTHING).epoch(2))
    assert all_same(batches(binarize=binarize, augment=EVERYTHING).epoch(2, start=2), whole[2:])


def test_dynamic_binarisation_is_new_at_each_epoch_and_its_mean_is_the_grey_value():
    source = TensorImages(torch.arange(0, 256, 15, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 20, 20))
    epochs = [next(iter(batches(source, batch_size=18, binarize="dynamic").epoch(epoch))) for epoch in range(40)]
    values = torch.stack([b.x[b.index.argsort()] for b in epochs])
    assert set(values.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(values[0], values[1])
    grey_values = source.images[:, 0, 0, 0] / 255
    standard_error = 0.5 / (40 * 400) ** 0.5
    torch.testing.assert_close(values.mean((0, 2, 3, 4)), grey_values, rtol=0, atol=5 * standard_error)
    assert torch.equal(values[:, 0], torch.zeros_like(values[:, 0]))  # black stays black
    assert torch.equal(values[:, -1], torch.ones_like(values[:, -1]))  # and white white


@pytest.mark.parametrize("augment", [None, EVERYTHING], ids=["plain", "augmented"])
def test_evaluation_is_reproducible_for_any_batch_size(augment):
    def pictures(batch_size: int, epoch: int) -> torch.Tensor:
        made = batches(batch_size=batch_size, binarize="dynamic", train=False, split="test", augment=augment)
        return torch.cat([b.x for b in made.epoch(epoch)])

    assert torch.equal(pictures(8, 0), pictures(5, 3))
    other = batches(binarize="dynamic", train=False, split="validation")
    assert not torch.equal(pictures(8, 0), torch.cat([b.x for b in other.epoch(0)]))


def test_static_binarisation_is_one_set_for_all_seeds_and_epochs():
    def pictures(seed: int, epoch: int, **settings) -> torch.Tensor:
        whole = joined(list(batches(seed=seed, batch_size=37, binarize="static", **settings).epoch(epoch)))
        return whole.x[whole.index.argsort()]

    assert torch.equal(pictures(0, 0), pictures(1, 5))
    assert torch.equal(pictures(0, 0), pictures(0, 0, train=False))
    assert not torch.equal(pictures(0, 0), pictures(0, 0, split="test"))
    assert set(pictures(0, 0).unique().tolist()) == {0.0, 1.0}


def test_a_threshold_is_above_one_half():
    source = TensorImages(torch.tensor([0.0, 0.5, 0.5000001, 1.0]).view(4, 1, 1, 1))
    assert next(batches(source, batch_size=4, train=False, binarize="threshold").epoch(0)).x.flatten().tolist() == [0, 0, 1, 1]


def test_the_target_can_be_the_picture_before_augmentation():
    source = grey()
    made = batches(source, augment=AugmentSpec(rotate=30, target="original"))
    for batch, augmented in zip(made.epoch(0), batches(source, augment=AugmentSpec(rotate=30)).epoch(0), strict=True):
        assert torch.equal(batch.x, source.images[batch.index] / 255)
        assert torch.equal(batch.inputs, augmented.x)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "settings",
    [
        {"binarize": "dynamic"},
        {"binarize": "static"},
        {"binarize": "static", "train": False},
        {"binarize": "threshold"},
        {"augment": EVERYTHING},
    ],
)
def test_streaming_equals_the_resident_path_bit_for_bit(tmp_path: Path, workers, settings):
    source = grey(21, (3, 6, 5))
    files = picture_files(tmp_path, source)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for epoch in (0, 1):
        streamed = list(batches(files, workers=workers, **settings).epoch(epoch))
        assert all_same(streamed, batches(source, **settings).epoch(epoch))
    assert torch.equal(torch.get_rng_state(), before)  # dropout's numbers do not depend on workers


def picture_files(folder: Path, source: TensorImages) -> FileImages:
    for i, image in enumerate(source.images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i:02}.png")
    return FileImages(sorted(folder.glob("*.png")), ImageReader((6, 5)), source.labels, source.class_names)


def test_prefetching_workers_give_the_batches_requested_next(tmp_path: Path):
    source = grey(21, (3, 6, 5))
    for train in (True, False):
        streamed = batches(picture_files(tmp_path, source), workers=1, train=train)
        for epoch, start in ((0, 0), (1, 0), (1, 1), (2, 0), (0, 2), (0, 0)):
            fresh = batches(source, train=train).epoch(epoch, start)
            assert all_same(list(streamed.epoch(epoch, start)), fresh)
        next(streamed.epoch(1))  # and leaves the rest
        assert all_same(list(streamed.epoch(1)), batches(source, train=train).epoch(1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("workers", [0, 2])
def test_streaming_to_a_gpu_gives_the_same_batches(tmp_path: Path, workers):
    source = grey(21, (3, 6, 5))
    np.save(tmp_path / "a.npy", source.images.numpy())
    mapped = MappedImages(tmp_path / "a.npy", "NCHW")
    for streamed in (picture_files(tmp_path, source), mapped):
        made = batches(streamed, workers=workers, device="cuda")
        for epoch in range(3):
            for ours, theirs in zip(made.epoch(epoch), batches(source).epoch(epoch), strict=True):
                torch.cuda._sleep(1_000_000)  # so that copies run ahead of what is computed
                assert ours.x.is_cuda
                assert torch.equal((ours.x.cpu() * 255).round(), theirs.x * 255)
                torch.testing.assert_close(ours.x.cpu(), theirs.x, rtol=2e-7, atol=0)  # a GPU multiplies by the inverse
                assert streamed is mapped or torch.equal(ours.y.cpu(), theirs.y)
                assert torch.equal(ours.index.cpu(), theirs.index)


def test_an_image_damaged_while_streaming_is_named_without_a_traceback(tmp_path: Path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "good.png")
    files = FileImages(sorted(tmp_path.iterdir()), ImageReader((4, 4)))
    with pytest.raises(DataError, match=r"^cannot read the image .*broken\.png\n  given: "):
        list(batches(files, batch_size=1, train=False, workers=1).epoch(0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 100}, "100, 37 images"),
        ({"batch_size": 0}, "batch size 0"),
        ({"world_size": 3}, "a multiple of 3"),
        ({"augment": AugmentSpec(saturation=0.1)}, "saturation needs RGB"),
    ],
)
def test_incompatible_settings_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        batches(**settings)


@pytest.mark.parametrize("settings", [{"binarize": "dynamic"}, {"augment": AugmentSpec(contrast=0.1)}])
def test_pixels_outside_the_unit_interval_are_not_binarised_or_recoloured(settings):
    with pytest.raises(DataError, match="values from -1 to 2"):
        batches(TensorImages(torch.tensor([-1.0, 2.0]).view(2, 1, 1, 1)), batch_size=1, **settings)


def test_float_pixels_are_kept_as_they_are():
    images = torch.tensor([-1.0, 2.0]).view(2, 1, 1, 1)
    assert torch.equal(next(batches(TensorImages(images), batch_size=2, train=False).epoch(0)).x, images)


def test_images_are_moved_to_a_device_only_once():
    source = grey()
    moved = source.to("meta")
    assert moved.images.device.type == "meta"
    assert moved is source.to("meta")
    assert source.to("cpu") is source


@pytest.mark.parametrize(("training", "evaluation"), [("static", "static"), ("static", "dynamic"), ("threshold", "threshold")])
def test_a_source_is_binarised_once_for_all_seeds(monkeypatch, training, evaluation):
    fixed, made = Batches.fixed, []
    monkeypatch.setattr(Batches, "fixed", lambda self, index: made.append(self.split) or fixed(self, index))
    source = grey()
    for seed in range(3):
        for binarize, train in ((training, True), (evaluation, False)):
            next(batches(source, seed=seed, binarize=binarize, train=train).epoch(0))
            next(batches(source, seed=seed, binarize=binarize, train=False, split="test").epoch(0))
    assert made == (["train", "test"] if training == "static" else ["train"])
