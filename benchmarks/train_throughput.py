"""vaekit's training loop against a hand-written one: same network, batch, arithmetic and optimiser, in turn in one process.

    python benchmarks/train_throughput.py [--repeats 9] [--threads 2] [--json benchmarks/results/train_throughput.json]

The hand-written loop is what one would write for speed alone: float images preloaded in order of a permutation, no checks, no
logging, no metrics. vaekit's is `Trainer.train_epoch`: uint8 images gathered and scaled at each step, noise from reseeded
generators, finite losses checked, sums kept for the log. Each repeat times one after the other over the same number of steps;
the figure is the median of the ratios.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from common import in_turn, per_second, ratios, write
from torch import Tensor
from torch.nn import functional as F

from vaekit.assembly import resolve
from vaekit.data import Splits, TensorImages
from vaekit.options import build_spec
from vaekit.training.folder import RunFolder
from vaekit.training.meter import Meter
from vaekit.training.trainer import Position, Trainer

CASES = {
    "mlp 784-512-20": ({"encoder": "mlp", "encoder.hidden": (512,), "decoder.hidden": (512,), "latent_dim": 20}, 200),
    "mlp 784-512-20, dynamic binarisation": (
        {"encoder": "mlp", "encoder.hidden": (512,), "decoder.hidden": (512,), "latent_dim": 20, "binarize": "dynamic"},
        200,
    ),
    "cnn (32, 64)": (
        {
            "encoder": "cnn",
            "encoder.channels": (32, 64),
            "decoder.channels": (64, 32),
            "encoder.hidden": (128,),
            "decoder.hidden": (128,),
            "latent_dim": 20,
        },
        40,
    ),
}


def make_trainer(options: dict[str, object], steps: int, threads: int, batch: int) -> Trainer:
    """Build a trainer of random images, one epoch of it being ``steps`` steps."""
    options = {"binarize": "none", "likelihood": "bce"} | options
    spec = resolve(build_spec({}, {**options, "batch_size": batch, "threads": threads, "device": "cpu", "epochs": 10_000}))
    images = TensorImages(torch.randint(0, 256, (steps * batch, 1, 28, 28), dtype=torch.uint8))
    folder = RunFolder.create(spec, Path(tempfile.mkdtemp()) / "run")
    return Trainer(spec, Splits(images, images, images), folder)


def one_epoch(trainer: Trainer) -> Callable[[], None]:
    """Return a function that takes an epoch of vaekit's loop, the first one each time."""

    def epoch() -> None:
        trainer.position, trainer.meter = Position(), Meter()
        trainer.train_epoch()

    return epoch


def by_hand(trainer: Trainer, batch: int) -> Callable[[], None]:
    """Return a function that takes one epoch of the hand-written loop over a copy of the trainer's network."""
    encoder, decoder = copy.deepcopy(trainer.objective.vae.encoder), copy.deepcopy(trainer.objective.vae.decoder)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, fused=True)
    source = trainer.splits.train
    images = source.gather(torch.arange(len(source))).float() / 255
    dynamic = trainer.spec.data.binarize == "dynamic"

    def loss(x: Tensor) -> Tensor:
        mu, logvar = encoder(x).unbind(1)
        logits = decoder(mu + torch.exp(0.5 * logvar) * torch.randn_like(mu))
        reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = -0.5 * torch.sum(1 + logvar - mu.square() - logvar.exp())
        return (reconstruction + kl) / batch

    def epoch() -> None:
        for index in torch.randperm(len(images)).split(batch):
            x = images[index]
            if dynamic:
                x = torch.bernoulli(x)
            optimizer.zero_grad(set_to_none=True)
            loss(x).backward()
            optimizer.step()

    return epoch


def compare(options: dict[str, object], steps: int, *, threads: int, repeats: int, batch: int = 128) -> dict[str, float]:
    """Time the two loops in turn; return images a second of each, and the ratio's median and range."""
    trainer = make_trainer(options, steps, threads, batch)
    hand = by_hand(trainer, batch)

    times = in_turn({"vaekit": one_epoch(trainer), "by hand": hand}, repeats)
    images = steps * batch
    return {
        "vaekit_images_per_second": per_second(images, times["vaekit"]),
        "by_hand_images_per_second": per_second(images, times["by hand"]),
        **ratios(times["by hand"], times["vaekit"]),
    }


def main() -> None:
    """Run every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    results = {}
    for name, (options, steps) in CASES.items():
        results[name] = compare(options, steps, threads=arguments.threads, repeats=arguments.repeats)
        row = results[name]
        print(
            f"{name:40} vaekit {row['vaekit_images_per_second']:8.0f}/s  by hand {row['by_hand_images_per_second']:8.0f}/s  "
            f"ratio {row['ratio_median']:.3f} ({row['ratio_min']:.3f} to {row['ratio_max']:.3f})"
        )
    write(arguments.json, arguments.threads, results, repeats=arguments.repeats)


if __name__ == "__main__":
    main()
