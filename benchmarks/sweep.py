"""Sixteen stacked models compared with the same models one after another: `Stack.train_epoch` and `Trainer.train_epoch`.

    python benchmarks/sweep.py [--models 16] [--repeats 5] [--threads 1] [--device cpu] [--precision fp32] [--json FILE]

The models differ in seed, so each has its own batches and noise. Each repeat trains all models for the same number of steps in
both ways. The result is the median ratio of wall time, together with that of processor time, which is less sensitive to other
load on the machine. The parts of a stacked step show where time is spent. Compilation time is reported separately. On CUDA,
both ways replay their steps as graphs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import alternate, per_second, ratios, write
from train_throughput import trainer_on

from vaekit.data import TensorImages
from vaekit.sweeps.stacked_training import Stack
from vaekit.training.checkpoints import Position
from vaekit.training.meter import Meter
from vaekit.training.trainer import Trainer

CASES: dict[str, dict[str, Any]] = {
    "mlp 784-64-10": {"encoder": "mlp", "encoder.hidden": (64,), "decoder.hidden": (64,), "latent_dim": 10},
    "mlp 784-128-10": {"encoder": "mlp", "encoder.hidden": (128,), "decoder.hidden": (128,), "latent_dim": 10},
    "mlp 784-256-20": {"encoder": "mlp", "encoder.hidden": (256,), "decoder.hidden": (256,), "latent_dim": 20},
    "mlp 784-512-20": {"encoder": "mlp", "encoder.hidden": (512,), "decoder.hidden": (512,), "latent_dim": 20},
    "mlp 784-1024-20": {"encoder": "mlp", "encoder.hidden": (1024,), "decoder.hidden": (1024,), "latent_dim": 20},
}


def make_trainers(
    options: dict[str, Any],
    *,
    models: int,
    steps: int,
    threads: int,
    device: str,
    batch: int,
    precision: str = "fp32",
    seeds: bool = True,
) -> list[Trainer]:
    """Build trainers on random images that differ in seed, or else in learning rate; one epoch has ``steps`` steps."""
    launch = {"device": device, "precision": precision, "compile": "graph" if device == "cuda" else "off"}
    common = {**options, **launch, "batch_size": batch, "threads": threads, "pictures": "none"}
    generator = torch.Generator().manual_seed(0)
    images = TensorImages(torch.randint(0, 256, (steps * batch, 1, 28, 28), dtype=torch.uint8, generator=generator)).to(device)
    owns = [{"seed": number} if seeds else {"lr": 1e-4 * (1 + number)} for number in range(models)]
    return [trainer_on(images, {**common, **own}) for own in owns]


def rewind(trainers: list[Trainer]) -> None:
    """Reset every trainer to the start of its first epoch."""
    for trainer in trainers:
        trainer.position, trainer.meter = Position(), Meter()


def compare(options: dict[str, Any], *, compiled: bool, models: int, steps: int, repeats: int, **more: Any) -> dict[str, Any]:
    """Time both ways in alternation; return throughputs, ratios and the parts of a stacked step."""
    apart = make_trainers(options, models=models, steps=steps, **more)
    together = make_trainers(options, models=models, steps=steps, **more)
    stack = Stack(together, compiled=compiled)

    def one_after_another() -> None:
        rewind(apart)
        for trainer in apart:
            trainer.train_epoch()

    def stacked() -> None:
        rewind(together)
        stack.train_epoch()

    began = time.perf_counter()
    stacked()
    warm_up = time.perf_counter() - began
    times = alternate({"stacked": stacked, "apart": one_after_another}, repeats)
    images = models * steps * more["batch"]
    return {
        "images_per_second_times_models_stacked": per_second(images, times["stacked"]),
        "images_per_second_times_models_one_after_another": per_second(images, times["apart"]),
        **ratios(times["apart"], times["stacked"]),
        "seconds_of_first_epoch": warm_up,
        "milliseconds_of_a_stacked_step": parts(stack),
    }


def parts(stack: Stack) -> dict[str, float]:
    """Return the median milliseconds that a stacked step spends on inputs, forward, backward and optimiser."""
    spent: dict[str, list[float]] = {"inputs": [], "forward": [], "backward": [], "optimiser": []}
    step = stack.step

    def timed(name: str, function: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = function()
        if step.first.device.type == "cuda":
            torch.cuda.synchronize()
        spent[name].append(1e3 * (time.perf_counter() - began))
        return result

    readings = step.batches.readings(0)
    for _ in range(step.first.steps_per_epoch):
        inputs = timed("inputs", lambda: step.inputs(next(readings)))
        state = (step.base, step.parameters, step.buffers, inputs)
        with step.first.autocast():
            total, *_ = timed("forward", partial(step.forward, *state, shared=step.shared))
        timed("backward", partial(step.backward, total))
        timed("optimiser", step.update)
    return {name: round(statistics.median(values), 3) for name, values in spent.items()}


def main() -> None:
    """Run every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--cases", help="some of the cases, separated by semicolons")
    parser.add_argument("--ways", nargs="+", choices=("eager", "compiled"), default=("eager", "compiled"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.compiler.config.force_disable_caches = True  # so that the first epoch includes a full compilation
    sizes = {name: getattr(arguments, name) for name in ("models", "steps", "batch", "repeats", "threads", "device", "precision")}
    results = {}
    for name in CASES if arguments.cases is None else arguments.cases.split(";"):
        for way in arguments.ways:
            title = f"{name}, {way}"
            row = results[title] = compare(CASES[name], compiled=way == "compiled", **sizes)
            print(
                f"{title:26} stacked {row['images_per_second_times_models_stacked']:8.0f}/s  "
                f"one after another {row['images_per_second_times_models_one_after_another']:8.0f}/s  "
                f"ratio {row['ratio_median']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f}), "
                f"of processor time {row['ratio_of_processor_time']:.2f}  {row['milliseconds_of_a_stacked_step']}",
                flush=True,
            )
    write(arguments.json, arguments.threads, results, sizes=sizes)


if __name__ == "__main__":
    main()
