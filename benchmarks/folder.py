"""A folder of JPEGs: vaekit's streamed training against a loop with torchvision's ImageFolder, transforms and DataLoader.

    python benchmarks/folder.py DATA [--repeats 5] [--workers 2] [--threads 2] [--json benchmarks/results/folder.json]

Both train the same network (CNN encoder, bilinear decoder, 150×150 colour) on the same files with the same batch size,
optimiser, loss and number of worker processes. The loop is the usual one: `Resize`, `CenterCrop`, `ToTensor`, persistent
workers. Neither caches decoded pictures. Each repeat times an epoch of each; the result is the median of the ratios. Loading
without training is timed in the same way, as are the parts: decoding a picture on one thread, transferring a batch of already
decoded pictures from the workers, and taking a step on a loaded batch.

The pictures are those of DATA, a folder with faces/olivetti_400x64x64.npz and emoji/noto_emoji_rgba64.npz (images under `x`),
enlarged, with some noise, saved as 178×218 JPEGs.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torchvision
from common import spread, write
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor

from vaekit.data import Batches, FileImages, ImageSource
from vaekit.model.assembly import assemble, build_vae
from vaekit.roles import datasets
from vaekit.specs.options import build_spec
from vaekit.store.folder import RunFolder
from vaekit.training.checkpoints import Position
from vaekit.training.hardware import fit_to_machine
from vaekit.training.meter import Meter
from vaekit.training.trainer import Trainer

SIDE = 150
EPOCHS = 3
"""The number of epochs when loading without training, so that batches prefetched at the end have little weight."""


def write_pictures(data: Path, folder: Path, num: int, size: tuple[int, int] = (178, 218)) -> None:
    """Write JPEGs of two classes: real faces and emoji, enlarged, with some noise."""
    rng = np.random.default_rng(0)
    faces = np.load(data / "faces" / "olivetti_400x64x64.npz")["x"]
    emoji = np.load(data / "emoji" / "noto_emoji_rgba64.npz")["x"]
    for i in range(num):
        name, pixels = (("face", faces[i // 2 % len(faces)]), ("emoji", emoji[i // 2 % len(emoji)]))[i % 2]
        large = np.asarray(Image.fromarray(pixels).convert("RGB").resize(size, Image.Resampling.BICUBIC), np.float32)
        noisy = (large + rng.normal(0, 4, large.shape)).clip(0, 255).astype(np.uint8)
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(folder / name / f"{i:05}.jpg", quality=90)


def make_trainer(folder: Path, *, batch: int, workers: int, threads: int, device: str) -> Trainer:
    """Build vaekit's trainer without caching pictures in memory."""
    given = {
        "dataset": "folder",
        "dataset.path": str(folder),
        "dataset.size": SIDE,
        "dataset.memory_gb": 0.0,
        "encoder": "cnn",
        "encoder.channels": (8, 16, 32),
        "encoder.hidden": (64,),
        "decoder": "bilinear",
        "decoder.channels": (32, 16, 8),
        "decoder.hidden": (64,),
        "latent_dim": 16,
        "likelihood": "bce",
    }
    training = {"batch_size": batch, "workers": workers, "threads": threads, "device": device, "epochs": 10_000, "compile": "off"}
    spec = fit_to_machine(build_spec({}, {**given, **training, "precision": "fp32", "pictures": "none"}))
    splits = datasets.build(spec.data.dataset).load()
    return Trainer(spec, assemble(spec, splits), splits, RunFolder.create(spec, Path(tempfile.mkdtemp()) / "run"))


class Loop:
    """The usual loop over the files of the trainer's training split."""

    def __init__(self, trainer: Trainer, folder: Path, *, batch: int, workers: int) -> None:
        self.batch, self.device = batch, trainer.step.device
        self.files = ImageFolder(folder, Compose([Resize(SIDE), CenterCrop(SIDE), ToTensor()]))
        numbers = {path: i for i, (path, _) in enumerate(self.files.samples)}
        train = trainer.splits.train
        assert isinstance(train, FileImages)
        chosen = [numbers[str(train.files[row])] for row in train.rows.tolist()]
        self.loader = self.loads(Subset(self.files, chosen), workers)
        self.vae = build_vae(trainer.spec.model, trainer.splits.facts, seed=0).to(self.device)
        self.optimizer = torch.optim.AdamW(self.vae.parameters(), lr=1e-4, weight_decay=0.0, fused=True)

    def loads(self, files: Dataset[Any], workers: int) -> DataLoader[Any]:
        """Return the loader of a dataset."""
        settings: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0, "shuffle": True, "drop_last": True}
        return DataLoader(files, batch_size=self.batch, pin_memory=self.device.type == "cuda", **settings)

    def step(self, x: Tensor) -> None:
        """Take one step."""
        mu, logvar = self.vae.encoder(x).unbind(1)
        logits = self.vae.decoder(mu + torch.exp(0.5 * logvar) * torch.randn_like(mu))
        kl = -0.5 * torch.sum(1 + logvar - mu.square() - logvar.exp())
        loss = (F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + kl) / self.batch
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def train(self) -> None:
        """Train for one epoch."""
        for x, _ in self.loader:
            self.step(x.to(self.device, non_blocking=True))


class Ready(ImageSource):
    """Already decoded pictures, to time only their transfer."""

    encoded, integer, labels, class_names = True, True, None, None

    def __init__(self, num: int) -> None:
        self.num, self.shape = num, (3, SIDE, SIDE)

    def __len__(self) -> int:
        return self.num

    def gather(self, index: Tensor) -> Tensor:
        return torch.zeros((len(index), *self.shape), dtype=torch.uint8)

    def subset(self, index: Tensor) -> Ready:
        return Ready(len(index))


class ReadyItems(Dataset[Any]):
    """Already decoded pictures, for the loop."""

    def __init__(self, num: int) -> None:
        self.num = num

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return torch.zeros(3, SIDE, SIDE), 0


def milliseconds(function: Callable[[], int]) -> float:
    """Return the milliseconds per image; ``function`` returns the number of images."""
    began = time.perf_counter()
    num = function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - began) / num


def after_the_first(batches: Iterator[Any], batch: int) -> float:
    """Return the milliseconds per image after the first batch, which excludes the start of the workers."""
    next(batches)
    return milliseconds(lambda: batch * sum(1 for _ in batches))


def compare(ways: dict[str, Callable[[], float]], repeats: int) -> dict[str, Any]:
    """Time the ways in alternation; return the median milliseconds per image of each, and the median and range of the ratio."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            time.sleep(1)  # prefetching by workers must not slow down the other way
            taken = way()
            if repeat:  # the first is a warm-up
                times[name].append(taken)
    ratios = [theirs / ours for ours, theirs in zip(times["vaekit"], times["torchvision"], strict=True)]
    medians = {f"{name}_milliseconds": statistics.median(values) for name, values in times.items()}
    return {**medians, **spread(ratios)}


def measure(folder: Path, *, repeats: int, batch: int, workers: int, threads: int, device: str) -> dict[str, Any]:
    """Compare training, loading alone, and the parts of both."""
    trainer = make_trainer(folder, batch=batch, workers=workers, threads=threads, device=device)
    loop = Loop(trainer, folder, batch=batch, workers=workers)
    images = trainer.step.steps_per_epoch * batch
    train, epochs = trainer.splits.train, itertools.count()
    assert isinstance(train, FileImages)

    kept: list[Batches] = []

    def ours(source: ImageSource) -> Iterator[Any]:
        made = Batches(source, batch_size=batch, streams=trainer.step.streams, device=trainer.step.device, workers=workers)
        kept[:] = [made]  # ends the workers of the previous one before the timing starts
        return itertools.chain.from_iterable(made.epoch(epoch) for epoch in range(EPOCHS))

    def theirs(loader: DataLoader[Any]) -> Iterator[Any]:
        return itertools.chain.from_iterable(itertools.repeat(loader, EPOCHS))

    def train_ours() -> int:
        trainer.position, trainer.meter = Position(epoch=next(epochs)), Meter()
        trainer.train_epoch()
        return images

    def train_theirs() -> int:
        loop.train()
        return images

    def step_ours() -> int:
        for _ in range(4):
            trainer.step(scaled)
        return 4 * batch

    def step_theirs() -> int:
        for _ in range(4):
            loop.step(ready.x)
        return 4 * batch

    def decode_theirs() -> int:
        return sum(1 for i in range(2 * batch) if loop.files[i][0] is not None)

    ready = next(ours(train))
    scaled = next(trainer.step.batches.readings(0))._replace(images=ready.x)
    rows, idle = torch.arange(2 * batch), ReadyItems(images)
    cases: dict[str, tuple[Callable[[], float], Callable[[], float]]] = {
        "training": (lambda: milliseconds(train_ours), lambda: milliseconds(train_theirs)),
        "loading alone": (lambda: after_the_first(ours(train), batch), lambda: after_the_first(theirs(loop.loader), batch)),
        "decoding, one thread": (lambda: milliseconds(lambda: len(train.gather(rows))), lambda: milliseconds(decode_theirs)),
        "handing over": (
            lambda: after_the_first(ours(Ready(images)), batch),
            lambda: after_the_first(theirs(loop.loads(idle, workers)), batch),
        ),
        "step": (lambda: milliseconds(step_ours), lambda: milliseconds(step_theirs)),
    }
    rows_of: dict[str, Any] = {}
    for name, (mine, other) in cases.items():
        row = rows_of[name] = compare({"vaekit": mine, "torchvision": other}, repeats)
        print(
            f"{name:22} ms/image: vaekit {row['vaekit_milliseconds']:6.3f}  torchvision {row['torchvision_milliseconds']:6.3f}"
            f"  ratio {row['ratio_median']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})",
            flush=True,
        )
    return rows_of


def main() -> None:
    """Write the pictures, run every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sizes = {name: getattr(arguments, name) for name in ("repeats", "batch", "workers", "threads", "device")}
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(arguments.data, Path(folder), arguments.images)
        results = measure(Path(folder), **sizes)
    versions = {"torchvision": torchvision.__version__, "pillow": PIL.__version__}
    write(arguments.json, arguments.threads, results, **sizes, images=arguments.images, libraries=versions)


if __name__ == "__main__":
    main()
