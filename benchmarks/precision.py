"""fp32 and bf16 on this processor: the speed of training, and the ELBO of MNIST after the same time.

    python benchmarks/precision.py [--seconds 25] [--seeds 2] [--threads 2] [--json benchmarks/results/precision.json]

Speeds are those of epochs on random images, in alternation. For the ELBO, both train on MNIST (see VAEKIT_DATA) with the defaults
of `vaekit train` for that time; the validation images are then evaluated in fp32.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from common import alternate, per_second, ratios, write
from train_throughput import CNN, MLP, make_trainer, one_epoch

from vaekit.model.assembly import assemble
from vaekit.specs.options import build_spec
from vaekit.store.folder import RunFolder
from vaekit.store.record import load_splits
from vaekit.training.checkpoints import Position
from vaekit.training.hardware import fit_to_data, fit_to_machine
from vaekit.training.meter import Meter
from vaekit.training.trainer import Trainer

PRECISIONS = ("fp32", "bf16")
WIDE = {"encoder.hidden": (1024, 1024), "decoder.hidden": (1024, 1024), "latent_dim": 32}
NETWORKS: dict[str, tuple[dict[str, Any], int]] = {
    "mlp 784-512-20": (MLP, 100),
    "mlp 784-512-20, compiled": (MLP | {"compile": "on"}, 100),
    "mlp 784-1024-1024-32": (WIDE, 30),
    "cnn (32, 64)": (CNN, 20),
    "cnn, default": ({"encoder": "cnn", "decoder": "cnn", "latent_dim": 20}, 20),
    "resnet": ({"encoder": "resnet", "decoder": "resnet", "latent_dim": 20}, 3),
}


def speed(options: dict[str, Any], steps: int, *, threads: int, repeats: int) -> dict[str, Any]:
    """Return the images per second of both precisions, and the speed-up of bf16."""
    trainers = {each: make_trainer(options | {"precision": each}, steps, threads, 128) for each in PRECISIONS}
    times = alternate({each: one_epoch(trainer) for each, trainer in trainers.items()}, repeats)
    speeds = {each: per_second(steps * 128, spent) for each, spent in times.items()}
    return {"images_per_second": speeds, **ratios(times["fp32"], times["bf16"])}


def elbo(options: dict[str, Any], precision: str, *, seed: int, threads: int, seconds: float) -> dict[str, float]:
    """Train on MNIST for some seconds; return the validation ELBO in fp32 and the number of steps."""
    given = {"dataset": "mnist", "device": "cpu", "seed": seed, "threads": threads, "epochs": 10_000, "compile": "off"}
    spec = fit_to_machine(build_spec({}, given | options | {"precision": precision, "max_time": seconds}))
    splits = load_splits(spec)
    spec = fit_to_data(spec, splits)
    with TemporaryDirectory() as folder:
        trainer = Trainer(spec, assemble(spec, splits), splits, RunFolder.create(spec, Path(folder) / "run"))
        trainer.began_at = time.monotonic()
        while not trainer.late and trainer.train_epoch() is not None:
            trainer.position, trainer.meter = Position(epoch=trainer.position.epoch + 1), Meter()
        exact = spec.model_copy(update={"train": spec.train.model_copy(update={"precision": "fp32"})})
        other = Trainer(exact, assemble(exact, splits), splits, RunFolder.create(exact, Path(folder) / "fp32"))
        other.step.objective.load_state_dict(trainer.step.objective.state_dict())
        found = other.evaluator.scores("validation")
    return {
        "elbo": cast("float", found["elbo"]),
        "steps": trainer.position.epoch * trainer.step.steps_per_epoch + trainer.position.step,
    }


def main() -> None:
    """Compare both precisions for each network, and print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=25.0)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--cases", help="some of the networks, separated by semicolons")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    results: dict[str, Any] = {}
    for name in NETWORKS if arguments.cases is None else arguments.cases.split(";"):
        options, steps = NETWORKS[name]
        row = results[name] = speed(options, steps, threads=arguments.threads, repeats=arguments.repeats)
        fixed = {"threads": arguments.threads, "seconds": arguments.seconds}
        row["learnt"] = {each: [elbo(options, each, seed=n, **fixed) for n in range(arguments.seeds)] for each in PRECISIONS}
        learnt = {
            each: [f"{found['elbo']:.2f} ({found['steps']:,} steps)" for found in row["learnt"][each]] for each in PRECISIONS
        }
        print(
            f"{name:22} bf16 {row['ratio_median']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})  {learnt}", flush=True
        )
    write(arguments.json, arguments.threads, results, repeats=arguments.repeats, seconds=arguments.seconds)


if __name__ == "__main__":
    main()
