"""vaekit against its peers: speed of training and of log p(x), and what each has learned after the same time.

    python -m pip install pythae==0.1.2 autoencoders==0.6.8 lightning keras
    python benchmarks/peers.py [--parts training likelihood learning] [--threads 2] [--json benchmarks/results/peers.json]

Rows are added to the file, in place of rows of the same name, so it can be filled in parts, and `learning` in contenders,
settings and seeds:

    python benchmarks/peers.py --parts training                                          # 1 minute
    python benchmarks/peers.py --parts likelihood                                        # half a minute
    python benchmarks/peers.py --parts learning --contenders vaekit --settings equal     # 1 minute; 12 for all
    python benchmarks/peers.py --parts learning --contenders vaekit keras --seeds 1 --after 15 30

The four packages fit beside any recent torch: none has an upper bound, and pip leaves installed versions as they are. The
peers run as released, on copies of vaekit's networks, with the loops in contenders.py:

* `training` times epochs in alternation, over the same bytes, with the same batch size and optimiser.
* `likelihood` times `log_likelihood` and pythae's `VAE.get_nll` with its default batch of 100 samples; no other peer has one.
  pythae's Bernoulli loss takes probabilities, so its decoder ends in a sigmoid, as in its own networks.
* `learning` trains on MNIST with pixels from 128 on white and the others black (60,000 images; needs VAEKIT_DATA). After some
  seconds of training steps alone, one evaluator computes the ELBO of the 10,000 test images from 5 samples for each, with
  probabilities clipped to [1e-6, 1 - 1e-6]. Settings are `equal`, which are the same network 784-512-20, initial weights,
  batch size of 128 and Adam with a constant learning rate of 1e-3, and `own`: those with which each library, or its README or
  example, presents itself; see contenders.py.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from common import add, alternate, per_second, ratios
from contenders import PEERS, Contender, given_by, pythae_model, vaekit_loop, vaekit_trainer
from torch import Tensor, nn
from torch.nn import functional as F
from train_throughput import MLP, NETWORKS, make_trainer, networks, one_epoch, trainer_on

from vaekit import roles
from vaekit.benchmark.machine import environment
from vaekit.data import Batch, TensorImages
from vaekit.evaluation.importance import log_likelihood

BATCH, SAMPLES, IMAGES = 128, 5000, 4
STEPS = {"mlp": ("mlp 784-512-20", 100), "cnn": ("cnn (32, 64)", 30)}
"""Networks to time, and the number of steps of an epoch."""


def training(case: str, *, threads: int, repeats: int) -> dict[str, Any]:
    """Time epochs of all loops; return images per second and vaekit's speed-up."""
    network, steps = STEPS[case]
    trainer = make_trainer(NETWORKS[network], steps, threads, BATCH)
    images = trainer.splits.train.gather(torch.arange(len(trainer.splits.train)))
    with tempfile.TemporaryDirectory() as folder:
        epochs = {name: loop(images, Path(folder), 0, given_by(trainer)).epoch for name, loop in PEERS.items()}
        times = alternate({"vaekit": vaekit_loop(trainer).epoch} | epochs, repeats)
    speeds = {name: per_second(steps * BATCH, spent) for name, spent in times.items()}
    return {
        "images_per_second": speeds,
        "against": {name: ratios(times[name], times["vaekit"]) for name in PEERS},
        "repeats": repeats,
    }


def likelihood(precision: str, *, threads: int, repeats: int) -> dict[str, Any]:
    """Time log p(x) of a few images with 5,000 samples; return images per second, the ratio, and both estimates."""
    trainer = make_trainer(NETWORKS["mlp 784-512-20"], 100, threads, BATCH)
    one_epoch(trainer)()
    theirs = pythae_model(*networks(trainer)).eval()
    vae = trainer.step.objective.vae
    x = (trainer.splits.train.gather(torch.arange(IMAGES)) > 127).float()
    batch = Batch(x, x, None, torch.arange(IMAGES))
    estimates: dict[str, float] = {}

    def ours() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            estimates["vaekit"] = log_likelihood(vae, [batch], trainer.step.streams, samples=SAMPLES)["log_likelihood"]

    def pythae() -> None:
        with torch.no_grad():
            estimates["pythae"] = float(theirs.get_nll(x, n_samples=SAMPLES))

    times = alternate({"vaekit": ours, "pythae": pythae}, repeats)
    linears = [module for module in vae.decoder.modules() if isinstance(module, nn.Linear)]
    work = 2 * SAMPLES * IMAGES * sum(layer.weight.numel() for layer in linears)
    speeds = {name: per_second(IMAGES, spent) for name, spent in times.items()}
    against = {"pythae": ratios(times["pythae"], times["vaekit"])}
    return {
        "images_per_second": speeds,
        "against": against,
        "gflops_of_decoding": per_second(work / 1e9, times["vaekit"]),
        "log_likelihood": estimates,
        "samples": SAMPLES,
        "repeats": repeats,
    }


def black_and_white() -> tuple[Tensor, Tensor]:
    """Return the training and test images of MNIST as bytes, each pixel 0 or 255."""
    splits = roles.datasets.build(roles.datasets.spec("mnist")(kind="mnist")).load()
    whole = [part.gather(torch.arange(len(part))) for part in (splits.train, splits.validation, splits.test)]
    train, validation, test = (255 * (images >= 128).to(torch.uint8) for images in whole)
    return torch.cat([train, validation]), test


@torch.no_grad()
def bound(model: Contender, test: Tensor, samples: int = 5) -> dict[str, float]:
    """Return the ELBO of test images and its KL, in nats per image."""
    generator = torch.Generator().manual_seed(0)
    cross_entropy = kl = 0.0
    for x in (test.float() / 255).split(1000):
        mu, logvar = model.encode(x)
        kl += float(0.5 * torch.sum(mu.square() + logvar.exp() - 1 - logvar))
        for _ in range(samples):
            z = mu + torch.exp(0.5 * logvar) * torch.randn(mu.shape, generator=generator)
            p = model.decode(z).reshape(x.shape).clamp(1e-6, 1 - 1e-6)
            cross_entropy += float(F.binary_cross_entropy(p, x, reduction="sum")) / samples
    return {"elbo": -(cross_entropy + kl) / len(test), "kl": kl / len(test)}


class TimeUp(Exception):  # noqa: N818
    """Training has lasted as long as it should."""


class Clock:
    """Calls a function after given seconds of training, not counting its own time, and then ends training.

    Args:
        after: The seconds, in increasing order.
        call: The function.
    """

    def __init__(self, after: Sequence[int], call: Callable[[], Any]) -> None:
        self.after, self.call = list(after), call
        self.found: dict[int, Any] = {}
        self.steps = 0
        self.began = time.perf_counter()

    def watch(self, optimizer: Any) -> None:
        """Read the time after each step of an optimiser."""
        name = "step" if hasattr(optimizer, "step") else "apply"
        take = getattr(optimizer, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            result = take(*arguments, **options)
            self.tick()
            return result

        setattr(optimizer, name, watched)

    def tick(self) -> None:
        """Count a step.

        Raises:
            TimeUp: It was the last.
        """
        self.steps += 1
        spent = time.perf_counter() - self.began
        if spent >= self.after[len(self.found)]:
            self.found[self.after[len(self.found)]] = self.call() | {"steps": self.steps}
            self.began = time.perf_counter() - spent
        if len(self.found) == len(self.after):
            raise TimeUp


def learning(name: str, settings: str, seed: int, after: Sequence[int], threads: int) -> dict[str, Any]:
    """Train a contender; return the ELBO of test images after each number of seconds."""
    train, test = black_and_white()
    with tempfile.TemporaryDirectory() as temporary:
        folder, equal = Path(temporary), settings == "equal"
        options = MLP | {"lr": 1e-3, "schedule": "constant", "batch_size": BATCH, "threads": threads, "seed": seed}
        trainer = trainer_on(TensorImages(train), options)
        torch.manual_seed(seed)
        if name == "vaekit":
            model = vaekit_loop(trainer if equal else vaekit_trainer(train, folder, seed, threads))
        else:
            model = PEERS[name](train, folder, seed, given_by(trainer) if equal else None)
        clock = Clock(after, lambda: bound(model, test))
        clock.watch(model.optimizer)
        try:
            while True:
                model.epoch()
        except TimeUp:
            return {"after": clock.found}


def line(name: str, row: dict[str, Any]) -> str:
    """Return a row as a line."""
    if "after" in row:
        found = (f"{seconds} s {each['elbo']:.2f} ({each['steps']:,} steps)" for seconds, each in row["after"].items())
        return f"{name:46} " + "  ".join(found)
    parts = (f"{who} {speed:,.1f}/s" for who, speed in row["images_per_second"].items())
    against = (
        f"against {who} {ratio['ratio_median']:.2f} ({ratio['ratio_min']:.2f} to {ratio['ratio_max']:.2f})"
        for who, ratio in row["against"].items()
    )
    return f"{name:46} " + "  ".join([*parts, *against, str(row.get("log_likelihood", ""))])


def measurements(given: argparse.Namespace) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return the chosen measurements by the names of their rows."""
    how = {"threads": given.threads, "repeats": given.repeats}
    parts: dict[str, dict[str, Callable[[], dict[str, Any]]]] = {
        "training": {f"training, {case}": partial(training, case, **how) for case in STEPS},
        "likelihood": {f"log p(x), mlp, {precision}": partial(likelihood, precision, **how) for precision in ("fp32", "bf16")},
        "learning": {
            f"learning, {settings}, {name}, seed {seed}": partial(learning, name, settings, seed, given.after, given.threads)
            for seed in given.seeds
            for settings in given.settings
            for name in given.contenders
        },
    }
    chosen = {name: measure for part in given.parts for name, measure in parts[part].items()}
    threads = "1 thread" if given.threads == 1 else f"{given.threads} threads"
    return {f"{name}, {threads}": measure for name, measure in chosen.items()}


def main() -> None:
    """Measure the chosen rows, print them and add them to the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["training", "likelihood", "learning"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--contenders", nargs="+", choices=("vaekit", *PEERS), default=["vaekit", *PEERS])
    parser.add_argument("--settings", nargs="+", choices=("equal", "own"), default=["equal", "own"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--after", nargs="+", type=int, default=[15, 30, 60], help="seconds of training")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    versions = {name: metadata.version(name) for name in ("pythae", "autoencoders", "lightning", "keras")}
    for name, measure in measurements(given).items():
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            row = measure()
        print(line(name, row), flush=True)
        add(given.json, name, {**row, "peers": versions, "environment": environment(given.threads)})


if __name__ == "__main__":
    main()
