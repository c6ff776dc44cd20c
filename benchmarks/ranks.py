"""Two processes with one thread each (torchrun, gloo) against one process with two threads: same CNN and global batch size.

    python benchmarks/ranks.py [--repeats 5] [--batch 128] [--parallel ddp] [--json benchmarks/results/ranks.json]

Each repeat runs `vaekit train` once in each way on images of MNIST's size. The result is the throughput of the last epoch's
training steps in images per second, from `metrics.jsonl`, which excludes start-up and warm-up. The ratio is the median over
repeats. The losses of both ways are reported as well: they are the same up to rounding.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import spread, write

from vaekit.run import Run

CNN = {
    "encoder": "cnn",
    "encoder.channels": "32,64",
    "encoder.hidden": "128",
    "decoder.channels": "64,32",
    "decoder.hidden": "128",
    "latent-dim": "20",
    "likelihood": "bce",
}
FIXED = {"dataset": "array", "epochs": "3", "pictures": "none", "compile": "off", "device": "cpu"}


def train(processes: int, threads: int, options: dict[str, str], out: Path) -> dict[str, Any]:
    """Train in a number of processes with a number of threads each; return the record of the last epoch."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    flags = [
        word for name, value in {**options, "threads": str(threads), "out": str(out)}.items() for word in (f"--{name}", value)
    ]
    command = [sys.executable, *launcher, "-m", "vaekit", "train", *flags, "--quiet"]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    return Run(out).metrics()[-1]


def main() -> None:
    """Run both ways in alternation and print one line per repeat."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--images", type=int, default=6400)
    parser.add_argument("--parallel", choices=["ddp", "fsdp"], default="ddp")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    ways = {"two processes": (2, 1), "two threads": (1, 2)}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    losses: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.npy"
        np.save(images, np.random.default_rng(0).integers(0, 256, (arguments.images, 28, 28), dtype=np.uint8))
        given = {"dataset.path": str(images), "batch-size": str(arguments.batch), "parallel": arguments.parallel}
        for repeat in range(arguments.repeats):
            for name, (processes, threads) in ways.items():
                record = train(processes, threads, {**FIXED, **CNN, **given}, Path(folder) / f"{repeat}-{processes}")
                rates[name].append(record["images_per_second"])
                losses[name] = record["train_loss"]
            print("  ".join(f"{name} {rate[-1]:8.0f}/s" for name, rate in rates.items()), flush=True)
    ratios = [mine / other for mine, other in zip(rates["two processes"], rates["two threads"], strict=True)]
    found = spread(ratios)
    print(f"ratio {found['ratio_median']:.3f} ({found['ratio_min']:.3f} to {found['ratio_max']:.3f}); losses {losses}")
    results = {
        "images_per_second": {name: statistics.median(rate) for name, rate in rates.items()},
        **found,
        "train_loss": losses,
    }
    settings = {"repeats": arguments.repeats, "global_batch": arguments.batch, "parallel": arguments.parallel}
    write(arguments.json, 2, results, **settings)


if __name__ == "__main__":
    main()
