"""Training and evaluation on a GPU, part by part; gpu_block.sh runs all parts within a time limit each.

    pip install pythae==0.1.2 && python benchmarks/gpu.py PART [--device cuda] [--tiny] [--json FILE]

Parts:

* `steps`: an epoch of vaekit's loop, with its steps launched kernel by kernel (`off`) or replayed as a CUDA graph (`graph`), in
  alternation with the hand-written loop of train_throughput.py, launched both ways, and with pythae's trainer, whose data stay on
  the host. For all others, the data are in GPU memory.
* `compiled`: the same with compiled and replayed steps (`on`).
* `busy`: the fraction of a step in which the GPU is busy, the slowest kernels, and where Python spends its time.
* `sweep`: stacked models compared with the same models one after another.
* `likelihood`: log p(x) with 5,000 samples compared with pythae, by the number of images decoded at once.
* `mnist`: the default model on MNIST; validation ELBO over time.
* `precision`: seconds per epoch and the test ELBO in fp32, TF32 and bf16.
* `images`: a residual autoencoder with a grid of latents on 128×128 images: images per second and memory by memory format.
* `pictures`: the first stage of latent diffusion, `ldm`, with perceptual and adversarial losses on real pictures of 128×128 or
  other sizes (`--pictures`, an .npz file with ``train_images`` and ``test_images``; `--weights`, those of EfficientNet-Lite0):
  images per second, memory, and what it learns.
* `onnx`: the latency of an exported decoder in ONNX Runtime on CUDA.

With `--tiny`, each part runs on little data as a smoke test; with `--device cpu`, ways that need CUDA are skipped.
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
from common import alternate, per_second, spread, write
from contenders import given_by, pythae_loop, pythae_model
from train_throughput import CNN, MLP, ByHand, networks, one_epoch, trainer_on

import vaekit
from vaekit.benchmark import machine
from vaekit.benchmark.throughput import throughput
from vaekit.data import Batch, TensorImages
from vaekit.evaluation.features import FeatureRequest
from vaekit.evaluation.importance import log_likelihood
from vaekit.training import step as training_step
from vaekit.training.trainer import Trainer

Settings = argparse.Namespace
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "mlp 784-512-20, batch 128": (MLP, 128),
    "mlp 784-512-20, batch 4,096": (MLP, 4096),
    "cnn (32, 64), batch 128": (CNN, 128),
}
RESNET: dict[str, Any] = {
    "encoder": "resnet",
    "encoder.channels": (64, 128, 256),
    "decoder.channels": (256, 128, 64),
    "latent_dim": 4,
    "latent_stride": 8,
    "likelihood": "gaussian",
    "binarize": "none",
}


class Results(dict[str, Any]):
    """The results of a part, written and printed one by one, so that an interruption preserves earlier results."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings

    def add(self, title: str, row: dict[str, Any]) -> None:
        """Add a result; lists of lines are not printed."""
        self[title] = row
        write(self.settings.json, torch.get_num_threads(), self, part=self.settings.part, tiny=self.settings.tiny)
        short = {name: value for name, value in row.items() if not isinstance(value, list)}
        print(f"{title}: {json.dumps(short, default=str, ensure_ascii=False)}", flush=True)


def random_images(num: int, device: str, shape: tuple[int, ...] = (1, 28, 28)) -> TensorImages:
    """Return random images in the memory of a device."""
    return TensorImages(torch.randint(0, 256, (num, *shape), dtype=torch.uint8, device=device))


def make_trainer(images: TensorImages, options: dict[str, Any], settings: Settings, **more: Any) -> Trainer:
    """Build a trainer on images, in single precision by default."""
    fixed = {"pictures": "none", "precision": "fp32", "device": settings.device}
    return trainer_on(images, {**fixed, **options, **more})


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


def waiting(epoch: Callable[[], object], device: str) -> Callable[[], None]:
    """Return a function that runs an epoch and waits for the device."""

    def run() -> None:
        epoch()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def steps(settings: Settings, results: Results) -> None:
    """Time epochs of every way and of the peers in alternation."""
    ways = [("fp32", "off"), ("fp32", "graph"), ("bf16", "off"), ("bf16", "graph")]
    if settings.device == "cpu":
        ways = [("fp32", "off"), ("bf16", "off")]
    for case, (options, batch) in CASES.items():
        num, theirs = (4, 2) if settings.tiny else (400 if batch == 128 else 100, 40 if batch == 128 else 4)
        images, few = random_images(num * batch, settings.device), random_images(theirs * batch, settings.device)
        contenders: dict[str, tuple[Callable[[], object], int]] = {}
        for precision, way in ways:
            trainer = make_trainer(images, options, settings, compile=way, precision=precision, batch_size=batch)
            contenders[f"{precision}, {way}"] = one_epoch(trainer), num * batch
        plain = make_trainer(images, options, settings, compile="off", batch_size=batch)
        contenders["by hand"] = ByHand(plain, batch).epoch, num * batch
        if settings.device == "cuda":
            contenders["by hand, graph"] = Captured(plain, batch).epoch, num * batch
        with tempfile.TemporaryDirectory() as folder:
            small = make_trainer(few, options, settings, compile="off", batch_size=batch)
            contenders["pythae"] = pythae_loop(few.images, Path(folder), 0, given_by(small)).epoch, theirs * batch
            epochs = {name: waiting(epoch, settings.device) for name, (epoch, _) in contenders.items()}
            times = alternate(epochs, 1 if settings.tiny else 5)
        row: dict[str, Any] = {name: round(per_second(contenders[name][1], spent)) for name, spent in times.items()}
        best = "fp32, graph" if settings.device == "cuda" else "fp32, off"
        for peer in ("by hand", "by hand, graph", "pythae"):
            if peer in times:
                share = contenders[best][1] / contenders[peer][1]
                pairs = zip(times[peer], times[best], strict=True)
                row[f"{best} against {peer}"] = spread([share * a.wall / b.wall for a, b in pairs])
        results.add(case, row)


def compiled(settings: Settings, results: Results) -> None:
    """Time epochs of compiled and replayed steps."""
    for case, (options, batch) in CASES.items():
        for precision in ("fp32", "bf16"):
            num = 4 if settings.tiny else 400 if batch == 128 else 100
            images, epochs, first = random_images(num * batch, settings.device), {}, 0.0
            for way in ("on", "graph" if settings.device == "cuda" else "off"):
                trainer = make_trainer(images, options, settings, compile=way, precision=precision, batch_size=batch)
                epochs[way] = waiting(one_epoch(trainer), settings.device)
                began = time.perf_counter()
                epochs[way]()
                first = max(first, time.perf_counter() - began)
            times = alternate(epochs, 1 if settings.tiny else 5)
            row: dict[str, Any] = {way: round(per_second(num * batch, spent)) for way, spent in times.items()}
            results.add(f"{case}, {precision}", {**row, "seconds_of_first_epoch": first})


def busy(settings: Settings, results: Results) -> None:
    """Measure the fraction of a step in which the GPU is busy; profile the kernels and Python."""
    for case, (options, batch) in CASES.items():
        for way in ("off", "graph") if settings.device == "cuda" else ("off",):
            images = random_images((4 if settings.tiny else 300) * batch, settings.device)
            trainer = make_trainer(images, options, settings, compile=way, batch_size=batch)
            epoch = waiting(one_epoch(trainer), settings.device)
            epoch()
            times = alternate({"epoch": epoch}, 3)["epoch"]
            spent = 1e3 * statistics.median(each.wall for each in times) / trainer.step.steps_per_epoch
            row: dict[str, Any] = {"milliseconds_per_step": spent}
            python, text = cProfile.Profile(), io.StringIO()
            python.runcall(epoch)
            pstats.Stats(python, stream=text).strip_dirs().sort_stats("tottime").print_stats(25)
            row["python"] = text.getvalue().splitlines()
            if settings.device == "cuda":
                few = random_images(20 * batch, settings.device)
                short = make_trainer(few, options, settings, compile=way, batch_size=batch)
                once = one_epoch(short)
                once()
                row["busy_milliseconds"] = machine.busy(once, 1) / short.step.steps_per_epoch
                row["busy_fraction"] = row["busy_milliseconds"] / spent
                with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                    once()
                row["kernels"] = profile.key_averages().table(sort_by="self_cuda_time_total", row_limit=25).splitlines()
            results.add(f"{case}, {way}", row)


def stacks(settings: Settings, results: Results) -> None:
    """Time stacked models and the same models one after another."""
    small, large = "mlp 784-64-10", "mlp 784-512-20"
    cases = [(16, small, True, False), (64, small, True, False), (16, small, False, False), (16, large, True, False)]
    cases += [(64, large, True, False), (64, small, False, False), (16, small, True, True)]
    if settings.tiny:
        cases = [(2, small, True, False), (2, small, False, False)]
    for models, name, seeds, compiled in cases:
        title = f"{models} × {name}, {'a seed each' if seeds else 'one seed'}, {'compiled' if compiled else 'eager'}"
        row = sweep.compare(
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
        results.add(title, row)


def likelihood(settings: Settings, results: Results) -> None:
    """Time log p(x) of 100 images with 5,000 samples, and pythae's of four of them."""
    num, samples = (4, 100) if settings.tiny else (100, 5000)
    trainer = make_trainer(random_images(128 * 50, settings.device), MLP, settings, compile="off", batch_size=128)
    one_epoch(trainer)()
    vae, device = trainer.step.objective.vae, settings.device
    x = (trainer.splits.train.gather(torch.arange(num, device=device)) > 127).float()
    estimates: dict[str, float] = {}

    def ours(precision: str, chunk: int | None) -> Callable[[], None]:
        def run() -> None:
            batch = Batch(x, x, None, torch.arange(num, device=device))
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
                found = log_likelihood(vae, [batch], trainer.step.streams, samples=samples, chunk=chunk)
            estimates[f"{precision}, {chunk or 'default'}"] = found["log_likelihood"]

        return run

    theirs = pythae_model(*networks(trainer)).to(device).eval()

    def pythae() -> None:
        with torch.no_grad():
            estimates["pythae, first 4"] = float(theirs.get_nll(x[:4], n_samples=samples))

    chunks = (None, 1024, 4096, 16384, 65536) if device == "cuda" else (None,)
    contenders = {
        f"{precision}, {chunk or 'default'}": ours(precision, chunk) for precision in ("fp32", "bf16") for chunk in chunks
    }
    times = alternate({**contenders, "pythae": pythae}, 1 if settings.tiny else 3)
    results.add("images_per_second", {name: per_second(4 if name == "pythae" else num, spent) for name, spent in times.items()})
    results.add("log_likelihood", estimates)


def trained(settings: Settings, **options: Any) -> dict[str, Any]:
    """Train on MNIST, or on digits as a smoke test; return the evaluation, and the seconds and validation ELBO of each epoch."""
    given = {"dataset": "digits" if settings.tiny else "mnist", "device": settings.device, "pictures": "none"}
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run = vaekit.train(**given, **options, out=Path(folder) / "run")
        whole = time.perf_counter() - began
        records = run.metrics()
        return {
            "seconds": whole,
            "spec": {name: getattr(run.spec.train, name) for name in ("compile", "precision", "batch_size", "epochs")},
            "evaluation": {name: value for name, value in (run.evaluation() or {}).items() if not isinstance(value, list)},
            "last": {name: records[-1].get(name) for name in ("seconds", "images_per_second", "validation_elbo")},
            "epochs": [
                {name: record.get(name) for name in ("epoch", "seconds", "epoch_seconds", "images_per_second", "validation_elbo")}
                for record in records
            ],
        }


def mnist(settings: Settings, results: Results) -> None:
    """Train the default model on MNIST for 30 epochs, in single precision and as `auto` chooses."""
    epochs = 1 if settings.tiny else 30
    for name in ("fp32", "auto"):
        results.add(name, trained(settings, epochs=epochs, precision=name))


@contextmanager
def tf32(enabled: bool) -> Iterator[None]:
    """Enable TF32 matrix products."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if enabled else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def precision(settings: Settings, results: Results) -> None:
    """Train an MLP and a CNN for three epochs in each precision, with each batch size."""
    for case, (options, batch) in CASES.items():
        for name in ("fp32", "tf32", "bf16"):
            with tf32(name == "tf32"):
                given = {
                    **options,
                    "precision": "bf16" if name == "bf16" else "fp32",
                    "batch_size": 128 if settings.tiny else batch,
                }
                results.add(f"{case}, {name}", trained(settings, **given, epochs=1 if settings.tiny else 3, lr=1e-3))


@contextmanager
def layout(name: str) -> Iterator[None]:
    """Override vaekit's choice of memory format."""

    def lay_out(module: torch.nn.Module) -> torch.memory_format:
        form = torch.channels_last if name == "channels last" else torch.contiguous_format
        module.to(memory_format=form)
        return form

    with mock.patch.object(training_step, "lay_out", lay_out):
        yield


def images(settings: Settings, results: Results) -> None:
    """Measure training on 128×128 images, in each memory format."""
    side, batch, num = (16, 4, 16) if settings.tiny else (128, 64, 512)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, np.random.default_rng(0).integers(0, 256, (num, side, side, 3), dtype=np.uint8))
        cnn: dict[str, Any] = {"encoder": "cnn", "latent_dim": 32, "likelihood": "gaussian", "binarize": "none"}
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
                    results.add(f"{model}, {form}, {arithmetic}, {way}", {name: row.get(name) for name in names})


def pictures(settings: Settings, results: Results) -> None:
    """Measure the first stage of latent diffusion on real pictures: each loss, precision and way to launch steps."""
    with tempfile.TemporaryDirectory() as folder:
        if settings.tiny:
            small = {name: images[:16, ::4, ::4] for name, images in np.load(settings.pictures).items()}
            settings.pictures = Path(folder) / "small.npz"
            np.savez(settings.pictures, **small)
        first_stage(settings, results)


def first_stage(settings: Settings, results: Results) -> None:
    """Do what `pictures` says."""
    tiny, cuda = settings.tiny, settings.device == "cuda"
    network = {"kind": "ldm", "channels": (4, 8, 8, 8) if tiny else (64, 128, 256, 256), "depth": 1 if tiny else 2}
    plain: list[dict[str, Any]] = [{"kind": "beta", "beta": 1e-6}]
    perceptual = {"kind": "perceptual", "weights": str(settings.weights), "weight": 500.0}
    critic = {"kind": "adversarial", "adaptive": True, "objective": "hinge"}
    losses = {
        "L1": plain,
        "L1, perceptual": [*plain, perceptual],
        "L1, perceptual, adversarial": [*plain, perceptual, {**critic, "weight": "step(0, 0.5, 6)"}],
    }
    batch = 4 if tiny else 32
    options = {
        "dataset": {"kind": "array", "path": str(settings.pictures)},
        "likelihood": {"kind": "l1", "link": "identity"},
        "latent_dim": 4,
        "latent_stride": 8,
        "batch_size": batch,
        "device": settings.device,
        "pictures": "none",
        "best": "last",
    }
    kept = {**network, "checkpointing": True}
    cases: list[tuple[str, str, str, dict[str, Any]]] = [
        (name, precision, way, {"loss": loss, "encoder": network, "decoder": network})
        for name, loss in losses.items()
        for precision, way in (("fp32", "graph"), ("bf16", "graph"), ("bf16", "off"))
    ]
    whole = {"loss": losses["L1, perceptual, adversarial"], "encoder": network, "decoder": network}
    cases += [
        ("L1, perceptual, adversarial, checkpointing", "bf16", "graph", {**whole, "encoder": kept, "decoder": kept}),
        ("L1, perceptual, adversarial, in 4 parts", "bf16", "graph", {**whole, "accumulate": 4}),
        ("L1, perceptual, adversarial", "bf16", "on", whole),
    ]
    for name, precision, way, more in cases:
        launch: dict[str, Any] = {
            "precisions": (precision,),
            "compilations": (way if cuda else "off",),
            "devices": (settings.device,),
        }
        given = {**options, **more}
        given.pop("device")
        (row,) = throughput(
            batch_sizes=(given.pop("batch_size"),), tasks=("train",), seconds=0.1 if tiny else 1.5, **launch, **given
        )["rows"]
        names = ("images_per_second", "flops_fraction", "busy_fraction", "peak_bytes", "first_step_seconds", "parts")
        results.add(f"{name}, {precision}, {way}", {each: row.get(each) for each in names})
    for name, loss in losses.items():
        with tempfile.TemporaryDirectory() as folder:
            run = vaekit.train(
                **options | {"loss": loss, "encoder": network, "decoder": network},
                epochs=1 if tiny else 12,
                ema=0.999,
                lr=3e-4,
                out=Path(folder) / "run",
            )
            request = FeatureRequest("efficientnet_lite0", settings.weights)
            found = run.evaluate(features=request, device=settings.device)
            records = run.metrics()
            results.add(
                f"learns, {name}",
                {
                    "evaluation": {key: value for key, value in found.items() if isinstance(value, float | int)},
                    "epochs": [
                        {
                            key: record.get(key)
                            for key in ("epoch", "seconds", "images_per_second", "validation_psnr", "validation_ssim")
                        }
                        for record in records
                    ],
                },
            )


def onnx(settings: Settings, results: Results) -> None:
    """Time an exported decoder in ONNX Runtime with its CUDA provider."""
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    if settings.device == "cuda" and "CUDAExecutionProvider" not in providers:
        results.add("not measured", {"providers": ", ".join(providers), "onnxruntime": onnxruntime.__version__})
        return
    provider = "CUDAExecutionProvider" if settings.device == "cuda" else "CPUExecutionProvider"
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
            results.add(f"batch {size}", {"milliseconds": 1e3 * statistics.median(times)})


PARTS: dict[str, Callable[[Settings, Results], None]] = {
    "steps": steps,
    "compiled": compiled,
    "busy": busy,
    "sweep": stacks,
    "likelihood": likelihood,
    "mnist": mnist,
    "precision": precision,
    "images": images,
    "pictures": pictures,
    "onnx": onnx,
}


def main() -> None:
    """Run a part and write its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--pictures", type=Path, help="for the part pictures: an .npz file")
    parser.add_argument("--weights", type=Path, help="for the part pictures: those of EfficientNet-Lite0")
    parser.add_argument("--json", type=Path)
    settings = parser.parse_args()
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    PARTS[settings.part](settings, Results(settings))


if __name__ == "__main__":
    main()
