"""Training and evaluation on a GPU, part by part; gpu_block.sh runs all parts within a time limit each.

    pip install pythae==0.1.2 && python benchmarks/gpu.py PART [--device cuda] [--tiny] [--json FILE]

Parts:

* `steps`: an epoch of vaekit's loop, with its steps launched kernel by kernel (`off`), replayed as a CUDA graph (`graph`) and
  compiled as well (`on`), in alternation with the hand-written loop of train_throughput.py, launched both ways, and with
  pythae's trainer, whose data stay on the host. The data are in the GPU's memory otherwise.
* `busy`: the part of a step during which the GPU is busy, the kernels that take longest, and where Python spends its time.
* `sweep`: stacked models against the same models one after another.
* `likelihood`: log p(x) with 5,000 samples against pythae, and how it depends on the number of images decoded at once.
* `mnist`: the default model on MNIST; seconds against the ELBO of the validation set.
* `precision`: seconds per epoch and the test ELBO in fp32, TF32 and bf16.
* `images`: a residual autoencoder with a grid of latents on 128×128 images: images per second and memory by memory format.
* `onnx`: the latency of an exported decoder in ONNX Runtime on CUDA.

With `--tiny`, each part runs on little data, to see that it works; with `--device cpu`, ways that need CUDA are left out.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import logging
import pstats
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import sweep
import torch
from common import in_turn, per_second, spread, write
from peers import pythae_epoch, pythae_model
from torch import Tensor
from train_throughput import CNN, MLP, ByHand, one_epoch

import vaekit
from vaekit.benchmark.throughput import throughput
from vaekit.data import Batch, Splits, TensorImages
from vaekit.evaluation.importance import log_likelihood
from vaekit.model.assembly import assemble
from vaekit.specs.options import build_spec
from vaekit.store.folder import RunFolder
from vaekit.training import step as training_step
from vaekit.training.hardware import fit_to_machine
from vaekit.training.trainer import Trainer

Settings = argparse.Namespace
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "mlp 784-512-20, batch 128": (MLP, 128),
    "mlp 784-512-20, batch 4,096": (MLP, 4096),
    "cnn (32, 64), batch 128": (CNN, 128),
}
RESNET = {
    "encoder": "resnet",
    "encoder.channels": (64, 128, 256),
    "decoder.channels": (256, 128, 64),
    "latent_dim": 4,
    "latent_stride": 8,
    "likelihood": "gaussian",
    "binarize": "none",
}


def show(title: str, row: dict[str, Any]) -> None:
    """Print a result on one line, without its tables."""
    print(f"{title}: " + json.dumps(row, default=str, ensure_ascii=False, separators=(",", ":"))[:900], flush=True)


def random_images(num: int, device: str, shape: tuple[int, ...] = (1, 28, 28)) -> TensorImages:
    """Return random images in the memory of a device."""
    return TensorImages(torch.randint(0, 256, (num, *shape), dtype=torch.uint8, device=device))


def make_trainer(images: TensorImages, options: dict[str, Any], settings: Settings, **more: Any) -> Trainer:
    """Build a trainer on images."""
    fixed = {"binarize": "none", "likelihood": "bce", "epochs": 10_000, "pictures": "none", "precision": "fp32"}
    spec = fit_to_machine(build_spec({}, {**fixed, "device": settings.device, **options, **more}))
    splits = Splits(images, images, images)
    return Trainer(spec, assemble(spec, splits), splits, RunFolder.create(spec, Path(tempfile.mkdtemp()) / "run"))


class Captured(ByHand):
    """The hand-written loop whose step, from the images to the optimiser, is replayed as a CUDA graph."""

    def __init__(self, trainer: Trainer, batch: int) -> None:
        super().__init__(trainer, batch)
        for group in self.optimizer.param_groups:
            group["capturable"] = True
        self.x, side = self.images[:batch].clone(), torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step()

    def step(self) -> None:
        """Take a step on the images at the graph's address."""
        self.loss(self.x).backward()
        self.update()

    def epoch(self) -> None:
        """Train for one epoch."""
        for x in self.data():
            self.x.copy_(x)
            self.graph.replay()


def waiting(epoch: Callable[[], None], device: str) -> Callable[[], None]:
    """Return a function that runs an epoch and waits for the device."""

    def run() -> None:
        epoch()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def steps(settings: Settings) -> dict[str, Any]:
    """Time epochs of every way, and of the peers, in alternation."""
    results: dict[str, Any] = {}
    ways = ("off", "graph", "on") if settings.device == "cuda" else ("off",)
    for case, (options, batch) in CASES.items():
        num, theirs = (4, 2) if settings.tiny else (400 if batch == 128 else 100, 40 if batch == 128 else 4)
        images, few = random_images(num * batch, settings.device), random_images(theirs * batch, settings.device)
        contenders: dict[str, tuple[Callable[[], None], int]] = {}
        for precision in ("fp32", "bf16"):
            for way in ways:
                trainer = make_trainer(images, options, settings, compile=way, precision=precision, batch_size=batch)
                contenders[f"{precision}, {way}"] = one_epoch(trainer), num * batch
        plain = make_trainer(images, options, settings, compile="off", batch_size=batch)
        contenders["by hand"] = ByHand(plain, batch).epoch, num * batch
        if settings.device == "cuda":
            contenders["by hand, graph"] = Captured(plain, batch).epoch, num * batch
        with tempfile.TemporaryDirectory() as folder:
            small = make_trainer(few, options, settings, compile="off", batch_size=batch)
            contenders["pythae"] = pythae_epoch(small, Path(folder), batch), theirs * batch
            epochs = {name: waiting(epoch, settings.device) for name, (epoch, _) in contenders.items()}
            times = in_turn(epochs, 1 if settings.tiny else 5)
        row = {name: per_second(contenders[name][1], spent) for name, spent in times.items()}
        results[case] = {"images_per_second": row}
        best = "fp32, graph" if settings.device == "cuda" else "fp32, off"
        for peer in ("by hand", "by hand, graph", "pythae"):
            if peer in times:
                share = contenders[best][1] / contenders[peer][1]
                pairs = zip(times[peer], times[best], strict=True)
                results[case][f"{best} against {peer}"] = spread([share * a.wall / b.wall for a, b in pairs])
        show(case, results[case])
    return results


def busy(settings: Settings) -> dict[str, Any]:
    """Measure the part of a step in which the GPU is busy; profile the kernels and Python."""
    results: dict[str, Any] = {}
    path = Path(tempfile.mkdtemp()) / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (16384, 28, 28), dtype=np.uint8))
    for case, (options, batch) in CASES.items():
        for way in ("off", "graph") if settings.device == "cuda" else ("off",):
            images = random_images((4 if settings.tiny else 200) * batch, settings.device)
            trainer = make_trainer(images, options, settings, compile=way, batch_size=batch)
            epoch = waiting(one_epoch(trainer), settings.device)
            for _ in range(2):
                epoch()
            began = time.perf_counter()
            epoch()
            row: dict[str, Any] = {"milliseconds_per_step": 1e3 * (time.perf_counter() - began) / trainer.batches.steps_per_epoch}
            python = cProfile.Profile()
            python.runcall(epoch)
            text = io.StringIO()
            pstats.Stats(python, stream=text).sort_stats("tottime").print_stats(25)
            row["python"] = text.getvalue().splitlines()
            if settings.device == "cuda":
                with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                    epoch()
                row["kernels"] = profile.key_averages().table(sort_by="self_cuda_time_total", row_limit=25).splitlines()
                (measured,) = throughput(
                    batch_sizes=(batch,),
                    precisions=("fp32",),
                    compilations=(way,),
                    devices=("cuda",),
                    tasks=("train",),
                    seconds=0.5,
                    **{"dataset": "array", "dataset.path": str(path), "binarize": "none", "likelihood": "bce"},
                    **options,
                )["rows"]
                row |= {name: measured[name] for name in ("busy_fraction", "flops_fraction", "bytes_fraction", "parts")}
            results[f"{case}, {way}"] = row
            show(f"{case}, {way}", {name: value for name, value in row.items() if name not in ("python", "kernels")})
    return results


def stacks(settings: Settings) -> dict[str, Any]:
    """Time stacked models and the same models one after another."""
    results: dict[str, Any] = {}
    small, large = "mlp 784-64-10", "mlp 784-512-20"
    cases = [(16, small, True, False), (16, small, False, False), (16, large, True, False), (64, small, True, False)]
    cases += [(64, small, False, False), (16, small, True, True), (64, large, True, False)]
    if settings.tiny:
        cases = [(2, small, True, False), (2, small, False, False)]
    for models, name, seeds, compiled in cases:
        title = f"{models} × {name}, {'a seed each' if seeds else 'one seed'}, {'compiled' if compiled else 'eager'}"
        results[title] = sweep.compare(
            sweep.CASES[name],
            compiled=compiled,
            models=models,
            steps=2 if settings.tiny else 50,
            repeats=1 if settings.tiny else 3,
            threads=torch.get_num_threads(),
            device=settings.device,
            batch=128,
            seeds=seeds,
        )
        show(title, results[title])
    return results


def likelihood(settings: Settings) -> dict[str, Any]:
    """Time log p(x) of 100 images with 5,000 samples, and pythae's of four of them."""
    num, samples = (4, 100) if settings.tiny else (100, 5000)
    results: dict[str, Any] = {}
    trainer = make_trainer(random_images(128 * 50, settings.device), MLP, settings, compile="off", batch_size=128)
    one_epoch(trainer)()
    vae, device = trainer.step.objective.vae, settings.device
    x = (trainer.splits.train.gather(torch.arange(num, device=device)) > 127).float()  # type: ignore[operator]
    estimates: dict[str, float] = {}

    def ours(precision: str, chunk: int | None) -> Callable[[], None]:
        more = {} if chunk is None else {"chunk": chunk}

        def run() -> None:
            batch = Batch(x, x, None, torch.arange(num, device=device))
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
                found = log_likelihood(vae, [batch], trainer.step.streams, samples=samples, **more)
            estimates[f"{precision}, {chunk or 'default'}"] = found["log_likelihood"]

        return run

    theirs = pythae_model(trainer).to(device).eval()

    def pythae() -> None:
        with torch.no_grad():
            estimates["pythae, first 4"] = float(theirs.get_nll(x[:4], n_samples=samples))

    chunks = (None, 1024, 4096, 16384, 65536) if device == "cuda" else (None,)
    contenders = {f"{precision}, {chunk or 'default'}": ours(precision, chunk) for precision in ("fp32", "bf16") for chunk in chunks}
    times = in_turn({**contenders, "pythae": pythae}, 1 if settings.tiny else 3)
    results["images_per_second"] = {name: per_second(4 if name == "pythae" else num, spent) for name, spent in times.items()}
    results["log_likelihood"] = estimates
    for name, row in results.items():
        show(name, row)
    return results


def trained(settings: Settings, title: str, **options: Any) -> dict[str, Any]:
    """Train on MNIST, or on digits to try; return the evaluation, and the seconds and validation ELBO of each epoch."""
    given = {"dataset": "digits" if settings.tiny else "mnist", "device": settings.device, "pictures": "none"}
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run = vaekit.train(**given, **options, out=Path(folder) / "run")
        whole = time.perf_counter() - began
        records = run.metrics()
        results = {
            "seconds": whole,
            "spec": {name: getattr(run.spec.train, name) for name in ("compile", "precision", "batch_size", "epochs")},
            "evaluation": run.evaluation(),
            "epochs": [
                {name: record.get(name) for name in ("epoch", "seconds", "epoch_seconds", "images_per_second", "validation_elbo")}
                for record in records
            ],
        }
    show(title, {**results, "epochs": results["epochs"][-1], "evaluation": results["evaluation"].get("elbo")})
    return results


def mnist(settings: Settings) -> dict[str, Any]:
    """Train the default model on MNIST for 30 epochs, in single precision and as `auto` chooses."""
    epochs = 1 if settings.tiny else 30
    return {name: trained(settings, name, epochs=epochs, precision=name) for name in ("fp32", "auto")}


@contextmanager
def tf32(enabled: bool) -> Iterator[None]:
    """Let matrix products round their factors to TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if enabled else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def precision(settings: Settings) -> dict[str, Any]:
    """Train an MLP and a CNN for three epochs in each precision, with each batch size."""
    results: dict[str, Any] = {}
    for case, (options, batch) in CASES.items():
        for name in ("fp32", "tf32", "bf16"):
            with tf32(name == "tf32"):
                given = {**options, "precision": "bf16" if name == "bf16" else "fp32", "batch_size": 128 if settings.tiny else batch}
                results[f"{case}, {name}"] = trained(settings, f"{case}, {name}", **given, epochs=1 if settings.tiny else 3, lr=1e-3)
    return results


@contextmanager
def layout(name: str) -> Iterator[None]:
    """Give models a memory format, whatever vaekit would choose."""

    def lay_out(module: torch.nn.Module) -> torch.memory_format:
        form = torch.channels_last if name == "channels last" else torch.contiguous_format
        module.to(memory_format=form)
        return form

    with mock.patch.object(training_step, "lay_out", lay_out):
        yield


def images(settings: Settings) -> dict[str, Any]:
    """Measure training on 128×128 images, in each memory format."""
    side, batch, num = (16, 4, 16) if settings.tiny else (128, 64, 1024)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, np.random.default_rng(0).integers(0, 256, (num, side, side, 3), dtype=np.uint8))
        cnn = {"encoder": "cnn", "latent_dim": 32, "likelihood": "gaussian", "binarize": "none"}
        models = {"resnet, 4 latents on a grid of stride 8": RESNET, "cnn (32, 64)": cnn}
        ways = ("graph", "on") if settings.device == "cuda" else ("off",)
        for (model, options), way in ((m, w) for w in ways for m in models.items()):
            for form in ("contiguous", "channels last"):
                for arithmetic in ("fp32", "bf16") if way != "on" else ("bf16",):  # compiling takes a minute
                    with layout(form):
                        (row,) = throughput(
                            batch_sizes=(batch,),
                            precisions=(arithmetic,),
                            compilations=(way,),
                            devices=(settings.device,),
                            tasks=("train",),
                            seconds=1.0,
                            **{"dataset": "array", "dataset.path": str(path), **options},
                        )["rows"]
                    names = ("images_per_second", "flops_fraction", "busy_fraction", "peak_bytes", "first_step_seconds")
                    title = f"{model}, {form}, {arithmetic}, {way}"
                    results[title] = {name: row.get(name) for name in names}
                    show(title, results[title])
    return results


def onnx(settings: Settings) -> dict[str, Any]:
    """Time an exported decoder in ONNX Runtime with its CUDA provider."""
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    if settings.device == "cuda" and "CUDAExecutionProvider" not in providers:
        return {"not measured": f"ONNX Runtime {onnxruntime.__version__} offers {', '.join(providers)}"}
    provider = "CUDAExecutionProvider" if settings.device == "cuda" else "CPUExecutionProvider"
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        run = vaekit.train(dataset="digits", epochs=1, device="cpu", pictures="none", out=Path(folder) / "run")
        session = onnxruntime.InferenceSession(run.export().path, providers=[provider])
        (given,) = session.get_inputs()
        for size in (1, 64):
            z = np.random.default_rng(0).standard_normal((size, given.shape[-1]), dtype=np.float32)
            times = []
            for _ in range(200):
                began = time.perf_counter()
                session.run(None, {given.name: z})
                times.append(time.perf_counter() - began)
            results[f"batch {size}"] = {"milliseconds": 1e3 * statistics.median(times)}
    return results


PARTS: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "steps": steps,
    "busy": busy,
    "sweep": stacks,
    "likelihood": likelihood,
    "mnist": mnist,
    "precision": precision,
    "images": images,
    "onnx": onnx,
}


def main() -> None:
    """Run a part and write its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", type=Path)
    settings = parser.parse_args()
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    results = PARTS[settings.part](settings)
    write(settings.json, torch.get_num_threads(), results, part=settings.part, tiny=settings.tiny)


if __name__ == "__main__":
    main()
