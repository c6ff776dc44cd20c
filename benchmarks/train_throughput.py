"""vaekit's training loop compared with a hand-written one: same network, batch size, precision and optimiser, in one process.

    python benchmarks/train_throughput.py [--repeats 9] [--threads 2] [--json benchmarks/results/train_throughput.json]

The hand-written loop is written for speed alone: preloaded float images in permuted order, without checks, logging or metrics.
It is never compiled; weights are averaged with torch's `AveragedModel`. vaekit's loop is `Trainer.train_epoch`: uint8 images
gathered and scaled at each step, noise from reseeded generators, checks for finite losses, and sums for the log. Each repeat
times both loops over the same number of steps; the result is the median of the ratios. The parts of a step show where they
differ; vaekit's forward part includes logging.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from common import alternate, per_second, ratios, write
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vaekit.data import Splits, TensorImages
from vaekit.model.assembly import assemble, build_vae
from vaekit.model.objective import Inputs
from vaekit.specs.options import build_spec
from vaekit.store.folder import RunFolder
from vaekit.training.checkpoints import Position
from vaekit.training.hardware import fit_to_machine
from vaekit.training.meter import Meter
from vaekit.training.trainer import Trainer

PARTS = ("data", "forward", "backward", "optimiser")
MLP = {"encoder": "mlp", "encoder.hidden": (512,), "decoder.hidden": (512,), "latent_dim": 20}
CNN = {
    "encoder": "cnn",
    "encoder.channels": (32, 64),
    "decoder.channels": (64, 32),
    "encoder.hidden": (128,),
    "decoder.hidden": (128,),
    "latent_dim": 20,
}
NETWORKS: dict[str, dict[str, object]] = {"mlp 784-512-20": MLP, "cnn (32, 64)": CNN}
CASES: dict[str, tuple[dict[str, object], int]] = {
    "mlp 784-512-20": (MLP, 200),
    "mlp 784-512-20, compiled": (MLP | {"compile": "on"}, 200),
    "mlp 784-512-20, dynamic binarisation": (MLP | {"binarize": "dynamic"}, 200),
    "mlp 784-512-20, moving average": (MLP | {"ema": 0.999}, 200),
    "cnn (32, 64)": (CNN, 40),
}


def make_trainer(options: dict[str, object], steps: int, threads: int, batch: int) -> Trainer:
    """Build a trainer on random images, with ``steps`` steps per epoch; the device defaults to the CPU."""
    images = TensorImages(torch.randint(0, 256, (steps * batch, 1, 28, 28), dtype=torch.uint8))
    return trainer_on(images, {**options, "batch_size": batch, "threads": threads})


def trainer_on(images: TensorImages, options: dict[str, Any]) -> Trainer:
    """Build a trainer on images with enough epochs; the device defaults to the CPU."""
    fixed = {"binarize": "none", "likelihood": "bce", "device": "cpu", "precision": "fp32", "epochs": 10_000}
    spec = fit_to_machine(build_spec({}, fixed | options))
    splits = Splits(images, images, images)
    return Trainer(spec, assemble(spec, splits), splits, RunFolder.create(spec, Path(tempfile.mkdtemp()) / "run"))


def one_epoch(trainer: Trainer) -> Callable[[], None]:
    """Return a function that runs an epoch of vaekit's loop, always the first."""

    def epoch() -> None:
        trainer.position, trainer.meter = Position(), Meter()
        trainer.train_epoch()

    return epoch


def networks(trainer: Trainer) -> tuple[nn.Module, nn.Module]:
    """Return copies of a trainer's encoder and decoder in PyTorch's default memory format."""
    vae = build_vae(trainer.spec.model, trainer.splits.facts, seed=0)
    vae.load_state_dict(trainer.step.objective.vae.state_dict())
    vae.to(trainer.step.device)
    return vae.encoder, vae.decoder


class ByHand:
    """The hand-written loop, with networks like the trainer's."""

    def __init__(self, trainer: Trainer, batch: int) -> None:
        self.encoder, self.decoder = networks(trainer)
        parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, fused=True)
        source = trainer.splits.train
        self.images = source.gather(torch.arange(len(source), device=source.device)).float() / 255
        self.dynamic, self.batch = trainer.spec.data.binarize == "dynamic", batch
        self.model, ema = nn.ModuleList([self.encoder, self.decoder]), trainer.spec.train.ema
        self.average = None if ema is None else AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(ema))

    def data(self) -> Iterator[Tensor]:
        """Yield the batches of an epoch."""
        for index in torch.randperm(len(self.images), device=self.images.device).split(self.batch):
            x = self.images[index]
            yield torch.bernoulli(x) if self.dynamic else x

    def loss(self, x: Tensor) -> Tensor:
        """Return the loss of a batch."""
        mu, logvar = self.encoder(x).unbind(1)
        logits = self.decoder(mu + torch.exp(0.5 * logvar) * torch.randn_like(mu))
        reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = -0.5 * torch.sum(1 + logvar - mu.square() - logvar.exp())
        return (reconstruction + kl) / self.batch

    def update(self) -> None:
        """Update the parameters."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.model)

    def epoch(self) -> None:
        """Train for one epoch."""
        for x in self.data():
            self.loss(x).backward()
            self.update()


def parts(trainer: Trainer, hand: ByHand, repeats: int) -> dict[str, dict[str, float]]:
    """Return the median milliseconds of each part of a step for both loops, alternating epoch by epoch."""
    spent: dict[str, dict[str, list[float]]] = {who: {name: [] for name in PARTS} for who in ("vaekit", "by hand")}

    def steps(who: str, batches: Iterator[Any], *calls: Callable[[Any], Any]) -> None:
        clock, value = time.perf_counter(), None
        for batch in batches:
            value = batch
            spent[who]["data"].append(time.perf_counter() - clock)
            for name, call in zip(PARTS[1:], calls, strict=True):
                clock = time.perf_counter()
                value = call(value)
                spent[who][name].append(time.perf_counter() - clock)
            clock = time.perf_counter()

    def forward(inputs: Inputs) -> Tensor:
        total, terms, _ = trainer.step.forward(inputs)
        trainer.meter.add(terms)
        terms["loss"].item()
        return cast("Tensor", total)

    for _ in range(repeats):
        trainer.step.objective.train()
        inputs = map(trainer.step.inputs, trainer.step.batches.readings(0))
        steps("vaekit", inputs, forward, torch.Tensor.backward, lambda _: trainer.step.update({}))
        steps("by hand", hand.data(), hand.loss, torch.Tensor.backward, lambda _: hand.update())
    return {who: {name: round(1e3 * statistics.median(v), 3) for name, v in each.items()} for who, each in spent.items()}


def compare(options: dict[str, object], steps: int, *, threads: int, repeats: int, batch: int = 128) -> dict[str, Any]:
    """Time the two loops in alternation; return the images per second, the ratio's median and range, and a step's parts."""
    trainer = make_trainer(options, steps, threads, batch)
    hand = ByHand(trainer, batch)
    times = alternate({"vaekit": one_epoch(trainer), "by hand": hand.epoch}, repeats)
    images = steps * batch
    return {
        "vaekit_images_per_second": per_second(images, times["vaekit"]),
        "by_hand_images_per_second": per_second(images, times["by hand"]),
        **ratios(times["by hand"], times["vaekit"]),
        "milliseconds": parts(trainer, hand, max(2, repeats // 3)),
    }


def main() -> None:
    """Run every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--cases", help="some of the cases, separated by semicolons")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    results = {}
    for name in CASES if arguments.cases is None else arguments.cases.split(";"):
        options, steps = CASES[name]
        results[name] = compare(options, steps, threads=arguments.threads, repeats=arguments.repeats)
        row = results[name]
        print(
            f"{name:40} vaekit {row['vaekit_images_per_second']:8.0f}/s  by hand {row['by_hand_images_per_second']:8.0f}/s  "
            f"ratio {row['ratio_median']:.3f} ({row['ratio_min']:.3f} to {row['ratio_max']:.3f}) {row['milliseconds']}",
            flush=True,
        )
    write(arguments.json, arguments.threads, results, repeats=arguments.repeats)


if __name__ == "__main__":
    main()
