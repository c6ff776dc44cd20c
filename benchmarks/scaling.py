"""How the cost of training and start-up scales: times, memory, and the exponent between neighbouring sizes.

    python benchmarks/scaling.py [--threads 1] [--parts step,stack,start,report] [--json benchmarks/results/scaling.json]

Each size runs in a separate process, whose peak memory is reported by the system. An exponent of 1 means that twice the size
costs twice as much; below 1, overhead is amortised.

* step: a training step, by batch size, side of the images, latent size, number of parameters and number of samples per image.
* stack: a step of a stacked sweep, by the number of models.
* start: the time from the spec to the first batch, by the number of files in a folder and of rows in a table.
* report: `vaekit report`, by the number of epochs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common import write

MLP = {"encoder.hidden": (512,), "decoder.hidden": (512,), "latent_dim": 20, "batch_size": 128}
CNN = {"encoder": "cnn", "encoder.channels": (32, 64), "decoder.channels": (64, 32), "latent_dim": 20, "batch_size": 32}
Axis = tuple[Sequence[int], Callable[[int], dict[str, Any]]]
AXES: dict[str, Axis] = {
    "batch size, MLP": ((32, 128, 512, 2048, 4096), lambda n: MLP | {"batch_size": n}),
    "side of images, CNN": ((28, 56, 112, 224), lambda n: CNN | {"side": n, "batch_size": 16}),
    "latents, MLP": ((2, 32, 512, 2048), lambda n: MLP | {"latent_dim": n}),
    "width of hidden layers, MLP": ((64, 256, 1024, 4096), lambda n: MLP | {"encoder.hidden": (n, n), "decoder.hidden": (n, n)}),
    "samples K, IWAE": ((1, 5, 25, 50), lambda n: MLP | {"loss": "iwae", "loss.num_samples": n}),
}
MODELS, FILES, ROWS, EPOCHS = (1, 4, 16, 64), (1_000, 10_000, 100_000), (10**5, 10**6, 10**7), (10, 1_000, 20_000)


def step(given: dict[str, Any]) -> dict[str, float]:
    """Return the milliseconds of a training step, and the number of parameters."""
    import torch

    from vaekit.data import Splits, TensorImages
    from vaekit.model.assembly import assemble
    from vaekit.specs.options import build_spec
    from vaekit.training.hardware import fit_to_machine
    from vaekit.training.step import Step

    torch.set_num_threads(given.pop("threads"))
    side, batch = given.pop("side", 28), given["batch_size"]
    images = TensorImages(torch.randint(0, 256, (4 * batch, 1, side, side), dtype=torch.uint8))
    splits = Splits(images, images, images)
    fixed = {"binarize": "none", "likelihood": "bce", "device": "cpu", "precision": "fp32", "compile": "off"}
    spec = fit_to_machine(build_spec({}, fixed | given))
    taken = Step(spec, assemble(spec, splits), splits)
    taken.objective.train()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - began < 3 and len(times) < 200):
        for reading in taken.batches.readings(0):
            clock = time.perf_counter()
            taken(reading)["loss"].item()
            times.append(1e3 * (time.perf_counter() - clock))
    return {"milliseconds": statistics.median(times[1:]), "parameters": sum(p.numel() for p in taken.objective.parameters())}


def stack(given: dict[str, Any]) -> dict[str, float]:
    """Return the milliseconds of a step of stacked models."""
    import sweep
    import torch

    from vaekit.sweeps.stacked_training import Stack

    torch.set_num_threads(given["threads"])
    options = sweep.CASES["mlp 784-64-10"]
    sizes = {"models": given["models"], "steps": 10, "threads": given["threads"], "device": "cpu", "batch": 128}
    trainers = sweep.make_trainers(options, **sizes)
    stacked, times = Stack(trainers), []
    for _ in range(4):
        sweep.rewind(trainers)
        clock = time.perf_counter()
        stacked.train_epoch()
        times.append(100 * (time.perf_counter() - clock))
    return {"milliseconds": statistics.median(times[1:])}


def start(given: dict[str, Any]) -> dict[str, float]:
    """Return the milliseconds from the spec to the first batch, in total and by part."""
    import torch

    from vaekit.model.assembly import assemble
    from vaekit.specs.options import build_spec
    from vaekit.store.folder import RunFolder
    from vaekit.store.record import load_splits
    from vaekit.training.hardware import fit_to_machine
    from vaekit.training.trainer import Trainer

    torch.set_num_threads(given.pop("threads"))
    clock = began = time.perf_counter()
    parts: dict[str, float] = {}

    def done(name: str) -> None:
        nonlocal clock
        parts[name], clock = 1e3 * (time.perf_counter() - clock), time.perf_counter()

    small = {"encoder.hidden": (8,), "decoder.hidden": (8,), "latent_dim": 2, "device": "cpu", "workers": 0, "pictures": "none"}
    spec = fit_to_machine(build_spec({}, small | given))
    splits = load_splits(spec)
    done("data")
    objective = assemble(spec, splits)
    done("model")
    trainer = Trainer(spec, objective, splits, RunFolder.create(spec, Path(tempfile.mkdtemp()) / "run"))
    done("trainer")
    next(trainer.step.batches.readings(0))
    done("first batch")
    return {"milliseconds": 1e3 * (time.perf_counter() - began), **parts}


def report(given: dict[str, Any]) -> dict[str, float]:
    """Return the duration of a report in milliseconds, and its size in megabytes."""
    import vaekit
    from vaekit.report import write_report

    with tempfile.TemporaryDirectory() as folder:
        run = vaekit.train(epochs=1, device="cpu", pictures="none", out=Path(folder) / "run")
        record = run.metrics()[0]
        lines = [json.dumps(record | {"epoch": epoch + 1}) for epoch in range(given["epochs"])]
        (run.path / "metrics.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
        clock = time.perf_counter()
        page = write_report(run, Path(folder) / "report.html")
        return {"milliseconds": 1e3 * (time.perf_counter() - clock), "megabytes": Path(page).stat().st_size / 1e6}


PARTS: dict[str, Callable[[dict[str, Any]], dict[str, float]]] = {"step": step, "stack": stack, "start": start, "report": report}


def measured(part: str, given: dict[str, Any]) -> dict[str, float]:
    """Measure a size in a separate process; return its result and peak memory."""
    arguments = [sys.executable, __file__, "--one", part, json.dumps(given)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONWARNINGS": "ignore"})
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def table(title: str, part: str, axis: Axis, threads: int) -> list[dict[str, float]]:
    """Measure all sizes along an axis; print a line for each with the exponent relative to the previous size."""
    rows: list[dict[str, float]] = []
    for size in axis[0]:
        row = {"size": size, **measured(part, {**axis[1](size), "threads": threads})}
        if rows:
            before = rows[-1]
            row["exponent"] = math.log(row["milliseconds"] / before["milliseconds"]) / math.log(size / before["size"])
        rows.append(row)
        exponent = f"  exponent {row['exponent']:5.2f}" if "exponent" in row else ""
        print(f"{title:30} {size:>12,} {row['milliseconds']:12,.1f} ms {row['peak_megabytes']:8,.0f} MB{exponent}", flush=True)
    return rows


def make_files(folder: Path, num: int) -> Path:
    """Make a folder of links to ten pictures."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    for number in range(10):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
            folder / f"{number}.png"
        )
    for number in range(10, num):
        os.link(folder / f"{number % 10}.png", folder / f"{number}.png")
    return folder


def make_rows(file: Path, num: int) -> Path:
    """Make a file of a table with 16 columns."""
    import numpy as np

    np.save(file, np.random.default_rng(0).standard_normal((num, 16), dtype=np.float32))
    return file


def main() -> None:
    """Measure every part and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("PART", "SIZE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        import torch

        part, given = arguments.one
        result = PARTS[part](json.loads(given))
        from vaekit.benchmark.machine import peak_memory

        result["peak_megabytes"] = (peak_memory(torch.device("cpu")) or 0) / 1e6
        print(json.dumps(result))
        return
    results: dict[str, Any] = {}
    for part in arguments.parts.split(","):
        with tempfile.TemporaryDirectory() as folder:
            axes: dict[str, dict[str, Axis]] = {
                "step": AXES,
                "stack": {"models in a stack, MLP": (MODELS, lambda n: {"models": n})},
                "start": {
                    "files in a folder, streamed": (
                        FILES,
                        lambda n, folder=folder: {
                            "dataset": "folder",
                            "dataset.path": str(make_files(Path(folder) / str(n), n)),
                            "dataset.memory_gb": 1e-4,
                        },
                    ),
                    "rows of a table, mapped": (
                        ROWS,
                        lambda n, folder=folder: {
                            "dataset": "array",
                            "dataset.path": str(make_rows(Path(folder) / f"{n}.npy", n)),
                            "dataset.memory_gb": 1e-3,
                            "loss": "gaussian",
                            "likelihood.link": "identity",
                        },
                    ),
                },
                "report": {"epochs of a report": (EPOCHS, lambda n: {"epochs": n})},
            }
            for title, axis in axes[part].items():
                results[title] = table(title, part, axis, arguments.threads)
    write(arguments.json, arguments.threads, results)


if __name__ == "__main__":
    main()
