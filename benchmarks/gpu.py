"""Training on a GPU: vaekit's ways of launching a step, each timed against pythae's trainer, and the utilisation of the GPU.

    pip install pythae==0.1.2 && python benchmarks/gpu.py [--repeats 5] [--json benchmarks/results/gpu.json]

Networks, batch size and loss are those of peers.py. `off` launches kernel by kernel, `graph` replays a step as a single CUDA
graph, and `on` also compiles it. pythae runs as released: in fp32, with its data on the host.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from common import in_turn, per_second, ratios, write
from peers import BATCH, pythae_epoch
from train_throughput import NETWORKS, make_trainer, one_epoch

from vaekit.benchmark.throughput import throughput

WAYS = [("fp32", "off"), ("fp32", "graph"), ("fp32", "on"), ("bf16", "graph"), ("bf16", "on")]


def against_pythae(options: dict[str, Any], *, steps: int, repeats: int) -> dict[str, Any]:
    """Time epochs of both trainers in alternation."""
    trainer = make_trainer(options, steps, torch.get_num_threads(), BATCH)
    with tempfile.TemporaryDirectory() as folder:
        times = in_turn({"vaekit": one_epoch(trainer), "pythae": pythae_epoch(trainer, Path(folder))}, repeats)
    return {
        "images_per_second": {name: per_second(steps * BATCH, spent) for name, spent in times.items()},
        "against pythae": ratios(times["pythae"], times["vaekit"]),
    }


def step_by_itself(network: dict[str, Any], *, precision: str, compiled: str) -> dict[str, Any]:
    """Measure vaekit's step."""
    (row,) = throughput(
        batch_sizes=(BATCH,),
        precisions=(precision,),
        compilations=(compiled,),
        devices=("cuda",),
        tasks=("train",),
        **{"dataset": "digits", "binarize": "none", "likelihood": "bce"},
        **network,
    )["rows"]
    return {name: row[name] for name in ("images_per_second", "busy_fraction", "flops_fraction", "bytes_fraction", "parts")}


def main() -> None:
    """Run every way with every network and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    results: dict[str, dict[str, Any]] = {}
    for name, network in NETWORKS.items():
        for precision, compiled in WAYS:
            title = f"{name}, {precision}, {compiled}"
            options = {**network, "device": "cuda", "precision": precision, "compile": compiled, "pictures": "none"}
            row = results[title] = against_pythae(options, steps=arguments.steps, repeats=arguments.repeats)
            speeds, against = row["images_per_second"], row["against pythae"]
            print(
                f"{title:40} vaekit {speeds['vaekit']:,.0f}/s  pythae {speeds['pythae']:,.0f}/s  "
                f"ratio {against['ratio_median']:.1f} ({against['ratio_min']:.1f} to {against['ratio_max']:.1f})",
                flush=True,
            )
    for name, network in NETWORKS.items():  # last, since a profiler slows down everything after it
        for precision, compiled in WAYS:
            title = f"{name}, {precision}, {compiled}"
            row = results[title]["step"] = step_by_itself(network, precision=precision, compiled=compiled)
            print(f"{title:40} {row['images_per_second']:,.0f}/s  GPU busy {row['busy_fraction']:.0%}", flush=True)
    write(arguments.json, torch.get_num_threads(), results, repeats=arguments.repeats)


if __name__ == "__main__":
    main()
