"""How cost scales: times, memory, and the exponent between neighbouring sizes.

    python benchmarks/scaling.py [--threads 1] [--parts step,start,…] [--json benchmarks/results/scaling.json]
    python benchmarks/scaling.py --parts "" --json benchmarks/results/scaling.json --plot examples/pictures/scaling.svg

Each size runs in a separate process, whose peak memory is reported by the system. An exponent of 1 means that twice the size
costs twice as much; below 1, overhead is amortised. Results of other axes already in the JSON file are kept.

* step: a training step, by batch size, side of the images, latent size, number of parameters and number of samples per image.
* models: a step of a stacked sweep, and the planning and the records of a sweep, by the number of models.
* state: writing the checkpoints of an epoch, by the number of parameters.
* files: the time from the spec to the first batch, and the names of all examples, by the number of files in a folder.
* rows: the same, and splitting, fingerprints and the first batch of an epoch, by the number of rows in a table.
* evaluation: the metrics and the codes of a data set, by the number of its rows.
* epochs: what a run of many epochs keeps and reads: metrics, frames, report.
* runs: `vaekit runs`, by the number of run folders.
* ranks: a step on one and two processes, and what a model fitted to both predicts for more.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from common import write
from loglog import Panel, draw

MLP: dict[str, Any] = {"encoder.hidden": (512,), "decoder.hidden": (512,), "latent_dim": 20, "batch_size": 128}
SMALL: dict[str, Any] = {"encoder.hidden": (8,), "decoder.hidden": (8,), "latent_dim": 2}
TABLE = {"loss": "gaussian", "likelihood.link": "identity"}
COLUMNS = 16
PROCESSES, BATCHES = "processes, CNN, global batch ", (128, 512)
PREDICTED = (4, 8, 16)
"""The numbers of processes for which the model of ranks predicts the time of a step."""


class Axis(NamedTuple):
    """A size that is varied.

    Args:
        sizes: Its values.
        given: The arguments of the measurement for a value, and for a folder shared by the axes of a part.
        steepest: The exponent that the work itself has at most.
    """

    sizes: Sequence[int]
    given: Callable[[int, Path], dict[str, Any]]
    steepest: int = 1


def width_of(parameters: int) -> int:
    """Return the width of two hidden layers with which an MLP 784-w-w-20 has about as many parameters."""
    linear = 2 * 784 + 3 * 20 + 4
    return round((math.sqrt(linear**2 + 8 * parameters) - linear) / 4)


def mlp_of(parameters: int) -> dict[str, Any]:
    """Return the options of an MLP with about as many parameters."""
    width = width_of(parameters)
    return MLP | {"encoder.hidden": (width, width), "decoder.hidden": (width, width)}


class Clock:
    """Measures parts of a duration in milliseconds."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self.last = time.perf_counter()

    def done(self, name: str) -> None:
        """End a part; those of the same name are added."""
        now = time.perf_counter()
        self.parts[name] = self.parts.get(name, 0.0) + 1e3 * (now - self.last)
        self.last = now

    @property
    def result(self) -> dict[str, float]:
        """All parts, and their sum."""
        return {"milliseconds": sum(self.parts.values()), **self.parts}


# Measurements


def on_images(given: dict[str, Any], side: int = 28) -> Any:
    """Return the step of a model on random images."""
    import torch

    from vaekit.data import Splits, TensorImages
    from vaekit.model.assembly import assemble
    from vaekit.specs.options import build_spec
    from vaekit.training.hardware import fit_to_machine
    from vaekit.training.step import Step

    images = TensorImages(torch.randint(0, 256, (4 * given["batch_size"], 1, side, side), dtype=torch.uint8))
    splits = Splits(images, images, images)
    fixed = {"binarize": "none", "likelihood": "bce", "device": "cpu", "precision": "fp32", "compile": "off"}
    spec = fit_to_machine(build_spec({}, fixed | given))
    return Step(spec, assemble(spec, splits), splits), splits


def step(given: dict[str, Any]) -> dict[str, float]:
    """Return the milliseconds of a training step, and the number of parameters."""
    taken, _ = on_images(given, given.pop("side", 28))
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

    options = sweep.CASES["mlp 784-64-10"]
    sizes = {"models": given["models"], "steps": 10, "threads": torch.get_num_threads(), "device": "cpu", "batch": 128}
    trainers = sweep.make_trainers(options, **sizes)
    stacked, times = Stack(trainers), []
    for _ in range(4):
        sweep.rewind(trainers)
        clock = time.perf_counter()
        stacked.train_epoch()
        times.append(100 * (time.perf_counter() - clock))
    return {"milliseconds": statistics.median(times[1:])}


def one_by_one(given: dict[str, Any]) -> dict[str, float]:
    """Return the duration of a sweep of models that train one after another, for an epoch of few images."""
    import numpy as np

    import vaekit

    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "images.npy", np.random.default_rng(0).integers(0, 256, (64, 28, 28), dtype=np.uint8))
        options: dict[str, Any] = {
            "dataset": "array",
            "dataset.path": f"{folder}/images.npy",
            "likelihood": "bce",
            "pictures": "none",
        }
        options |= MLP | {"batch_size": 16, "epochs": 1, "device": "cpu", "compile": "off"}
        clock = Clock()
        vaekit.sweep(over={"seed": range(given["models"])}, stack="off", out=Path(folder) / "sweep", **options)
        clock.done("sweep")
    return clock.result


def plan(given: dict[str, Any]) -> dict[str, float]:
    """Return the duration of planning the stacks of a sweep over the latent size, in which no two models are alike."""
    from vaekit.model.assembly import assemble
    from vaekit.specs.options import build_spec
    from vaekit.store.record import load_splits
    from vaekit.sweeps.grouping import Grouping
    from vaekit.training.hardware import fit_to_data, fit_to_machine

    clock = Clock()
    sizes = range(1, given["models"] + 1)
    specs = [fit_to_machine(build_spec({}, SMALL | {"latent_dim": size, "device": "cpu", "compile": "off"})) for size in sizes]
    splits = load_splits(specs[0])
    specs = [fit_to_data(spec, splits) for spec in specs]
    clock.done("specs")
    grouping = Grouping("auto", lambda number: assemble(specs[number], splits))
    for spec in specs:
        objective = assemble(spec, splits)
        clock.done("models")
        grouping.add(spec, objective)
        clock.done("groups")
    grouping.groups()
    clock.done("groups")
    return {"milliseconds": clock.parts["groups"], **clock.parts}


def records(given: dict[str, Any]) -> dict[str, float]:
    """Return the duration of recording one more trial of a search in ``sweep.json``."""
    from types import SimpleNamespace

    import vaekit
    from vaekit.evaluation.metrics import Criterion
    from vaekit.sweeps.search import Plan

    with tempfile.TemporaryDirectory() as folder:
        lengthen(vaekit.train(**SMALL, epochs=1, device="cpu", pictures="none", out=Path(folder) / "run"), 100)
        plan = Plan({}, {}, {"lr": (1e-4, 1e-3)}, Criterion.read("elbo"), prune=True)
        now, about = datetime.now(UTC), {"params": {"lr": 1e-3}, "user_attrs": {"run": "run"}}
        done = {"state": SimpleNamespace(name="COMPLETE"), "value": 0.0, "datetime_start": now, "datetime_complete": now}
        trials = [SimpleNamespace(number=number, **done, **about) for number in range(given["models"])]
        study: Any = SimpleNamespace(trials=trials[:-1], best=trials[0], folder=Path(folder))
        plan.request = {"over": {}, "metric": "elbo"}
        plan.record(study)
        study.trials = trials
        clock = Clock()
        plan.record(study)
        clock.done("record")
    return clock.result


def state(given: dict[str, Any]) -> dict[str, float]:
    """Return the duration of writing and reading the latest checkpoint, and of writing the best weights."""
    from vaekit.store.folder import RunFolder
    from vaekit.training.checkpoints import Checkpoints, Position
    from vaekit.training.meter import Meter

    taken, splits = on_images(given)
    taken.objective.train()
    taken(next(taken.batches.readings(0)))
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(taken.spec, Path(folder) / "run")
        checkpoints, clock = Checkpoints(run, taken, splits), Clock()
        checkpoints.save_last(Position(), Meter())
        clock.done("last")
        checkpoints.save_best(1)
        clock.done("best")
        total = clock.result["milliseconds"]
        checkpoints.load_last()
        clock.done("read")
        run.release()
    return {**clock.result, "milliseconds": total}


def start(given: dict[str, Any]) -> dict[str, float]:
    """Return the milliseconds from the spec to the first batch, in total and by part."""
    from vaekit.model.assembly import assemble
    from vaekit.specs.options import build_spec
    from vaekit.store.folder import RunFolder
    from vaekit.store.record import load_splits
    from vaekit.training.hardware import fit_to_machine
    from vaekit.training.trainer import Trainer

    clock = Clock()
    spec = fit_to_machine(build_spec({}, SMALL | {"device": "cpu", "workers": 0, "pictures": "none"} | given))
    splits = load_splits(spec)
    clock.done("data")
    objective = assemble(spec, splits)
    clock.done("model")
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(spec, Path(folder) / "run")
        trainer = Trainer(spec, objective, splits, run)
        clock.done("trainer")
        next(trainer.step.batches.readings(0))
        clock.done("first batch")
        run.release()
    return clock.result


def names(given: dict[str, Any]) -> dict[str, float]:
    """Return the duration of naming all examples, batch by batch, as `vaekit embed` does."""
    import torch

    from vaekit.data import FileImages
    from vaekit.data.folders import find_images
    from vaekit.data.images import ImageReader

    source = FileImages(find_images(Path(given["path"])), ImageReader((32, 32)))
    clock = Clock()
    for batch in torch.arange(len(source)).split(256):
        source.places(batch)
    clock.done("names")
    return clock.result


def in_memory(given: dict[str, Any]) -> dict[str, float]:
    """Return the durations of splitting labelled rows, of their fingerprint, and of the first batch of each of two epochs."""
    import torch

    from vaekit.data import Batches, TensorImages, split_source
    from vaekit.streams import Streams

    num = given["rows"]
    source = TensorImages(torch.randn(num, COLUMNS), torch.randint(0, 10, (num,)))
    clock = Clock()
    splits = split_source(source, 0.1, 0.1)
    clock.done("split")
    _ = splits.fingerprint
    clock.done("fingerprint")
    _ = splits.value_range
    clock.done("range")
    batches = Batches(splits.train, batch_size=128, streams=Streams(0))
    for epoch in range(2):
        clock.last = time.perf_counter()
        next(batches.readings(epoch))
        clock.done(f"first batch of epoch {epoch + 1}")
    return clock.result


def evaluation(given: dict[str, Any]) -> dict[str, float]:
    """Return the durations of evaluating and of embedding rows."""
    import torch

    from vaekit.compute.distributed import ProcessGroup
    from vaekit.data import Batches, Splits, TensorImages
    from vaekit.evaluation.embedding import embed
    from vaekit.evaluation.evaluator import Evaluator
    from vaekit.model.assembly import assemble
    from vaekit.specs.options import build_spec
    from vaekit.streams import Streams
    from vaekit.training.hardware import fit_to_machine

    source = TensorImages(torch.randn(given["rows"], COLUMNS))
    splits = Splits(source, source, source)
    spec = fit_to_machine(build_spec({}, SMALL | TABLE | {"encoder": "mlp", "decoder": "mlp", "device": "cpu"}))
    objective = assemble(spec, splits)
    evaluator = Evaluator(spec, objective, splits, ProcessGroup(device=torch.device("cpu")))
    clock = Clock()
    evaluator.scores("test")
    clock.done("metrics")
    for _ in embed(objective.vae.eval(), Batches(source, batch_size=256, streams=Streams(0), train=False), Streams(0)):
        pass
    clock.done("codes")
    return clock.result


def lengthen(run: Any, epochs: int) -> None:
    """Repeat the metrics of a run."""
    record = run.metrics()[0]
    with run.folder.metrics.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record | {"epoch": epoch + 1, "best": epoch % 10 == 0}) + "\n" for epoch in range(epochs))
        file.flush()
        os.fsync(file.fileno())


def metrics(given: dict[str, Any]) -> dict[str, float]:
    """Return the durations of what is done with the metrics of a long run when it is resumed and listed, and after an epoch."""
    import vaekit
    from vaekit.store.summary import Summary

    with tempfile.TemporaryDirectory() as folder:
        run = vaekit.train(epochs=1, device="cpu", pictures="none", out=Path(folder) / "run")
        (record,) = run.metrics()
        lengthen(run, given["epochs"])
        size, clock = run.folder.metrics.stat().st_size, Clock()
        Summary.read(run.folder)
        clock.done("summary")
        run.folder.cut_metrics(given["epochs"] - 1)
        clock.done("resume")
        run.folder.append_metrics(record | {"epoch": given["epochs"]})
        clock.done("append")
    return {**clock.result, "megabytes": size / 1e6}


def frames(given: dict[str, Any]) -> dict[str, float]:
    """Return the duration of the pictures of an epoch, of the animation, and the size of the frames kept until then."""
    import vaekit
    from vaekit.data import Batches
    from vaekit.streams import Streams
    from vaekit.training.snapshots import Snapshots

    with tempfile.TemporaryDirectory() as folder:
        options = {**SMALL, "epochs": 1, "device": "cpu", "pictures": "none"}
        run = vaekit.train(**options, out=Path(folder) / "run")
        spec = run.spec.model_copy(update={"train": run.spec.train.model_copy(update={"pictures": "auto"})})
        originals = Batches(run.splits.validation, batch_size=128, streams=Streams(0), train=False, split="validation")
        shots, num = Snapshots(spec, run.folder, run.vae(), originals), given["epochs"]
        clock = time.perf_counter()
        for epoch in range(1, num + 1):
            shots.take(epoch)
        each = 1e3 * (time.perf_counter() - clock) / num
        files = [*run.folder.frames.iterdir()]
        kept = {"frames": len(files), "megabytes": sum(file.stat().st_size for file in files) / 1e6}
        clock = time.perf_counter()
        shots.animate()
        return {"milliseconds": 1e3 * (time.perf_counter() - clock), "milliseconds of an epoch": each, **kept}


def report(given: dict[str, Any]) -> dict[str, float]:
    """Return the duration of a report in milliseconds, and its size in megabytes."""
    import vaekit
    from vaekit.report import write_report

    with tempfile.TemporaryDirectory() as folder:
        run = vaekit.train(epochs=1, device="cpu", pictures="none", out=Path(folder) / "run")
        lengthen(run, given["epochs"])
        clock = time.perf_counter()
        page = write_report(run, Path(folder) / "report.html")
        return {"milliseconds": 1e3 * (time.perf_counter() - clock), "megabytes": Path(page).stat().st_size / 1e6}


def runs(given: dict[str, Any]) -> dict[str, float]:
    """Return the durations of `vaekit runs` and of finding the number of a new run."""
    import vaekit
    from vaekit.cli import main as command
    from vaekit.store.folder import next_numbered

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        first = vaekit.train(**SMALL, epochs=1, device="cpu", pictures="none", out=root / "00001-run")
        for number in range(2, given["runs"] + 1):
            copy = root / f"{number:05d}-run"
            (copy / "checkpoints").mkdir(parents=True)
            for file in ("spec.yaml", "metrics.jsonl", "evaluation.json"):
                shutil.copy(first.path / file, copy / file)
        clock = Clock()
        with contextlib.redirect_stdout(io.StringIO()):
            command(["runs", str(root)])
        clock.done("table")
        next_numbered(root, "run")
        clock.done("next number")
    return clock.result


ALL = (step, stack, one_by_one, plan, records, state, start, names, in_memory, evaluation, metrics, frames, report, runs)
MEASURES: dict[str, Callable[[dict[str, Any]], dict[str, float]]] = {each.__name__: each for each in ALL}


# Axes


def make_files(folder: Path, num: int) -> str:
    """Make a folder of links to a hundred pictures, unless it exists."""
    import numpy as np
    from PIL import Image

    folder = folder / f"files-{num}"
    if not folder.exists():
        folder.mkdir()
        for number in range(100):
            pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
        for number in range(100, num):
            os.link(folder / f"{number % 100}.png", folder / f"{number}.png")
    return str(folder)


def make_rows(folder: Path, num: int) -> str:
    """Make a file of a table."""
    import numpy as np

    file = folder / f"{num}.npy"
    np.save(file, np.random.default_rng(0).standard_normal((num, COLUMNS), dtype=np.float32))
    return str(file)


def folder_of(folder: Path, num: int) -> dict[str, Any]:
    """Return the options of a streamed folder of pictures."""
    return {"dataset": "folder", "dataset.path": make_files(folder, num), "dataset.memory_gb": 1e-4}


PARTS: dict[str, dict[str, tuple[str, Axis]]] = {
    "step": {
        "batch size, MLP": ("step", Axis((32, 128, 512, 2048, 4096), lambda n, _: MLP | {"batch_size": n})),
        "side of images, CNN": (
            "step",
            Axis((28, 64, 128, 256, 512), lambda n, _: {"encoder": "cnn", "latent_dim": 20, "side": n, "batch_size": 8}, 2),
        ),
        "latents, MLP": ("step", Axis((2, 32, 512, 2048), lambda n, _: MLP | {"latent_dim": n})),
        "parameters, MLP": ("step", Axis((10**5, 10**6, 10**7, 10**8), lambda n, _: mlp_of(n))),
        "samples K, IWAE": ("step", Axis((1, 5, 25, 50), lambda n, _: MLP | {"loss": "iwae", "loss.num_samples": n})),
    },
    "models": {
        "models in a stack, MLP": ("stack", Axis((1, 4, 16, 64, 256), lambda n, _: {"models": n})),
        "models of a sweep, one by one": ("one_by_one", Axis((4, 16, 64, 256), lambda n, _: {"models": n})),
        "models of a sweep: planning": ("plan", Axis((10, 100, 1000), lambda n, _: {"models": n})),
        "trials of a search: one record": ("records", Axis((10, 100, 1000), lambda n, _: {"models": n})),
    },
    "state": {"parameters: checkpoints of an epoch": ("state", Axis((10**5, 10**6, 10**7, 10**8), lambda n, _: mlp_of(n)))},
    "files": {
        "files in a folder: start": ("start", Axis((10**3, 10**4, 10**5, 10**6), lambda n, folder: folder_of(folder, n))),
        "files in a folder, size given: start": (
            "start",
            Axis((10**3, 10**4, 10**5, 10**6), lambda n, folder: folder_of(folder, n) | {"dataset.size": 32}),
        ),
        "files in a folder: names": ("names", Axis((10**3, 10**4, 10**5), lambda n, folder: {"path": make_files(folder, n)})),
    },
    "rows": {
        "rows of a mapped table: start": (
            "start",
            Axis(
                (10**4, 10**5, 10**6, 10**7),
                lambda n, folder: TABLE | {"dataset": "array", "dataset.path": make_rows(folder, n), "dataset.memory_gb": 1e-4},
            ),
        ),
        "rows in memory: start": ("in_memory", Axis((10**4, 10**5, 10**6, 10**7), lambda n, _: {"rows": n})),
    },
    "evaluation": {"rows: metrics and codes": ("evaluation", Axis((10**3, 10**4, 10**5, 10**6), lambda n, _: {"rows": n}))},
    "epochs": {
        "epochs: resuming and listing": ("metrics", Axis((10, 10**3, 10**5), lambda n, _: {"epochs": n})),
        "epochs: animation": ("frames", Axis((10, 100, 1000, 3000), lambda n, _: {"epochs": n})),
        "epochs: report": ("report", Axis((10, 10**3, 10**4, 10**5), lambda n, _: {"epochs": n})),
    },
    "runs": {"run folders: listing": ("runs", Axis((10**2, 10**3, 10**4), lambda n, _: {"runs": n}))},
}


def measured(measure: str, given: dict[str, Any], threads: int) -> dict[str, float]:
    """Measure a size in a separate process; return its result and peak memory."""
    arguments = [sys.executable, __file__, "--threads", str(threads), "--one", measure, json.dumps(given)]
    done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | {"PYTHONWARNINGS": "ignore"})
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def table(title: str, measure: str, axis: Axis, folder: Path, threads: int) -> list[dict[str, Any]]:
    """Measure all sizes along an axis; print a line for each with the exponent relative to the previous size."""
    rows: list[dict[str, Any]] = []
    for size in axis.sizes:
        row = {"size": size, **measured(measure, axis.given(size, folder), threads)}
        if rows:
            before = rows[-1]
            row["exponent"] = math.log(row["milliseconds"] / before["milliseconds"]) / math.log(size / before["size"])
        rows.append(row)
        exponent = f"  exponent {row['exponent']:5.2f}" if "exponent" in row else ""
        print(f"{title:36} {size:>12,} {row['milliseconds']:12,.1f} ms {row['peak_megabytes']:8,.0f} MB{exponent}", flush=True)
    return rows


# Ranks


def over_ranks() -> dict[str, list[dict[str, Any]]]:
    """Return the milliseconds of a step of a CNN on one and two processes, each with one thread, and a model's for more.

    The model: a step takes C / R + T · 2 (R - 1) / R on R processes, where C is the computation and T the time in which the
    gradients travel once; a ring of R processes sends 2 (R - 1) / R of them. C and T are fitted to the two measured steps.
    """
    import numpy as np
    import ranks

    results: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.npy"
        np.save(images, np.random.default_rng(0).integers(0, 256, (6400, 28, 28), dtype=np.uint8))
        for batch in BATCHES:
            given = {**ranks.FIXED, **ranks.CNN, "dataset.path": str(images), "batch-size": str(batch), "parallel": "ddp"}
            times: dict[int, list[float]] = {1: [], 2: []}
            for repeat in range(3):
                for processes, found in times.items():
                    record = ranks.train(processes, 1, given, Path(folder) / f"{batch}-{repeat}-{processes}")
                    found.append(1e3 * batch / record["images_per_second"])
            one, two = (statistics.median(found) for found in times.values())
            travel = max(0.0, two - one / 2)
            rows = [{"size": 1, "milliseconds": one}, {"size": 2, "milliseconds": two}]
            rows += [
                {"size": r, "milliseconds": one / r + travel * 2 * (r - 1) / r, "predicted": True, "travel": travel}
                for r in PREDICTED
            ]
            results[f"{PROCESSES}{batch}"] = rows
            for row in rows:
                note = " (model)" if "predicted" in row else ""
                print(f"processes, batch {batch} {row['size']:>6} {row['milliseconds']:10,.1f} ms{note}", flush=True)
    return results


def plot(results: dict[str, list[dict[str, Any]]], file: Path) -> None:
    """Draw each axis as a panel of a logarithmic chart."""
    steepest = {title: axis.steepest for part in PARTS.values() for title, (_, axis) in part.items()}
    panels = []
    for title, rows in results.items():
        slope = steepest.get(title, -1)
        points = [(row["size"], row["milliseconds"]) for row in rows if "predicted" not in row]
        dashed = [points[-1], *((row["size"], row["milliseconds"]) for row in rows if "predicted" in row)]
        memory = [(row["size"], row["peak_megabytes"]) for row in rows if "peak_megabytes" in row]
        panels.append(Panel(title, points, memory, slope, dashed if len(dashed) > 1 else []))
    file.write_text(draw(panels), "utf-8")


def main() -> None:
    """Measure every part and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", default=",".join([*PARTS, "ranks"]))
    parser.add_argument("--axes", help="A text that the titles of the axes to measure contain.", default="")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="The SVG file of the chart of all results.")
    parser.add_argument("--one", nargs=2, metavar=("MEASURE", "GIVEN"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        import torch

        from vaekit.benchmark.machine import peak_memory

        torch.set_num_threads(arguments.threads)
        measure, given = arguments.one
        result = MEASURES[measure](json.loads(given))
        result["peak_megabytes"] = (peak_memory(torch.device("cpu")) or 0) / 1e6
        print(json.dumps(result))
        return
    stored = json.loads(arguments.json.read_text("utf-8"))["results"] if arguments.json and arguments.json.is_file() else {}
    found: dict[str, Any] = {}
    for part in filter(None, arguments.parts.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            for title, (measure, axis) in PARTS.get(part, {}).items():
                if arguments.axes in title:
                    found[title] = table(title, measure, axis, Path(folder), arguments.threads)
        if part == "ranks":
            found |= over_ranks()
    titles = [title for part in PARTS.values() for title in part] + [f"{PROCESSES}{batch}" for batch in BATCHES]
    results = {title: (stored | found)[title] for title in titles if title in stored | found}
    if found:
        write(arguments.json, arguments.threads, results)
    if arguments.plot is not None:
        plot(results, arguments.plot)


if __name__ == "__main__":
    main()
