"""Every operation works for a model with every component, or explains why not. New components are included automatically."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small import PARTS, fitting_loss, fitting_posterior, fitting_prior, small_parts

import vaekit
from vaekit import roles
from vaekit.interfaces import Capability
from vaekit.training.progress import Silent

Cli = Callable[..., tuple[int, str, str]]
Point = tuple[str, str]
RunOf = Callable[..., Path]

POINTS = [(registry.role, kind) for registry in PARTS for kind in registry.kinds()]
CNN = {"encoder": "cnn", "decoder": "cnn"}
REAL = {"likelihood": "gaussian", "likelihood.link": "identity"}
DATA: dict[str, dict[str, Any]] = {
    "table": {**REAL},
    "table that lacks numbers": {**REAL, "missing": "channel"},
    "signals": {**REAL, **CNN, "dataset.layout": "NCL"},
    "volumes": {**CNN, "dataset.layout": "NDHW"},
}
"""Data other than images, with their required options."""
MODELS: dict[str, dict[str, Any]] = {
    "grid": {**CNN, "latent_stride": 2},
    "grid of layers": {**CNN, "latent_stride": 2, "posterior": "ladder", "prior": "ladder"},
    "grid of codes": {**CNN, "latent_stride": 2, "posterior": "vq"},
    "codes in turn": {**CNN, "latent_stride": 2, "posterior": "fsq", "prior": "pixelcnn"},
    "conditional": {**CNN, "condition": "label", "condition.embedding": 3, "prior": "vamp", "loss": "iwae"},
    "players": {"posterior": "gaussian", "condition": "label", "loss": "factor", "ema": 0.9},
}
"""Models that differ from the default in several parts."""
POINTS += [("data", name) for name in DATA] + [("model", name) for name in MODELS]

COMMANDS = {
    "evaluate": "evaluate RUN --json",
    "log p(x)": "evaluate RUN --samples 5 --json",
    "score": "score RUN --score squared_error --quantile 0.9 --page DIR/a.html --out DIR/a.npz --json",
    "sample": "sample RUN --num 4 --out DIR/a.png",
    "reconstruct": "reconstruct RUN 0 1 --out DIR/a.png",
    "interpolate": "interpolate RUN 0 1 --out DIR/a.png",
    "traverse": "traverse RUN --dims 1,0 --steps 3 --out DIR/a.png",
    "manifold": "manifold RUN --side 3 --out DIR/a.png",
    "scatter": "scatter RUN --ellipses --out DIR/a.png",
    "variations": "variations RUN --per-class 2 --out DIR/a",
    "morph": "morph RUN --steps 2 --out DIR/a.gif",
    "compare": "compare RUN OTHER --out DIR/a.png",
    "report": "report RUN --out DIR/a.html",
    "embed": "embed RUN --sample --out DIR/a.parquet",
    "bench": "bench RUN/spec.yaml --batch-sizes 16 --seconds 0.1 --tasks train,encode,sample --json",
    "decoder.onnx": "export RUN --part decoder --onnx DIR/a.onnx",
    "encoder.onnx": "export RUN --part encoder --onnx DIR/a.onnx",
    "autoencoder.onnx": "export RUN --part autoencoder --onnx DIR/a.onnx",
    "decoder.pt2": "export RUN --part decoder --torch DIR/a.pt2",
    "autoencoder.pt2": "export RUN --part autoencoder --torch DIR/a.pt2",
}
SLOW = {"bench", "score", "decoder.onnx", "encoder.onnx", "autoencoder.onnx", "decoder.pt2", "autoencoder.pt2"}
OF_LOSSES = {"evaluate", "log p(x)", "report", "bench"}
"""The operations that involve the loss; the others only use the model."""
WALK = [
    pytest.param(point, operation, marks=[pytest.mark.slow] if operation in SLOW else [], id=f"{'-'.join(point)}-{operation}")
    for point in POINTS
    for operation in COMMANDS
    if point[0] != "loss" or operation in OF_LOSSES
]


def options_of(point: Point, data: Path) -> dict[str, Any]:
    """Return the options of a small run that differs from the default in one component, or in its data."""
    role, kind = point
    several = DATA.get(kind) or MODELS.get(kind)
    fitting = {"posterior": fitting_posterior(*point), **fitting_prior(*point), **fitting_loss(*point)}
    own = {**fitting, role: kind} if several is None else several
    options: dict[str, Any] = {"encoder": "mlp", "decoder": "mlp", "likelihood": "bce", **own}
    roles_of = {registry.role for registry in PARTS}
    options |= small_parts({name: value for name, value in options.items() if name in roles_of})
    counts = roles.likelihoods.get(options["likelihood"]).scores == "counts"
    file = data / f"{kind if role == 'data' else 'counts' if counts else 'images'}.npz"
    options |= {"dataset": "array", "dataset.path": str(file), "latent_dim": 2}
    if options["likelihood"] == "bce":
        options["binarize"] = "dynamic"
    options |= {"epochs": 2, "batch_size": 16, "threads": 1, "device": "cpu", "pictures": "none"}
    return options


@pytest.fixture(scope="session")
def data(labelled_run: Path) -> Path:
    """A folder of small data of every shape, with three labels."""
    folder, rng = labelled_run.parent, np.random.default_rng(0)
    labels = np.arange(240) % 3
    rows = rng.standard_normal((240, 6)) + labels[:, None]
    holes = np.where(rng.random(rows.shape) < 0.2, np.nan, rows)
    waves = np.sin(np.linspace(0, 6, 12) * (1 + labels[:, None, None]) + rng.random((240, 2, 1)))
    blobs = rng.integers(0, 256, (240, 5, 6, 4)).astype(np.uint8)
    for name, examples in zip(DATA, (rows, holes, waves, blobs), strict=True):
        np.savez(folder / f"{name}.npz", examples=examples, labels=labels)
    np.savez(folder / "counts.npz", examples=rng.poisson(1 + 5 * (labels[:, None] == np.arange(6) // 2)), labels=labels)
    return folder


@pytest.fixture(scope="module")
def run_of(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunOf:
    """Trains the run of a point, or another run of the same point, on first use."""
    folder, runs = tmp_path_factory.mktemp("points"), {}

    def run_of(point: Point, *, seed: int = 0) -> Path:
        if (point, seed) not in runs:
            runs[point, seed] = vaekit.train(**options_of(point, data), seed=seed, out=folder / f"{'-'.join(point)}-{seed}").path
        return runs[point, seed]

    return run_of


def refusal_of(point: Point, operation: str) -> str | None:
    """Return the phrase with which an operation rejects a point, if it does."""
    role, kind = point
    prior = {role: kind, **fitting_prior(*point)}.get("prior", "normal")
    density = role != "posterior" or bool(roles.posteriors.get(kind).provides)
    density = density and Capability.LOG_PROB in roles.priors.get(prior).provides
    return None if density else {"log p(x)": "density"}.get(operation)


def test_every_picture_is_covered() -> None:
    assert set(roles.pictures.kinds()) <= COMMANDS.keys()


@pytest.mark.parametrize(("point", "operation"), WALK)
def test_an_operation(cli: Cli, run_of: RunOf, tmp_path: Path, point: Point, operation: str) -> None:
    run = run_of(point)
    paths = {"RUN": run, "OTHER": run_of(point, seed=1) if "OTHER" in COMMANDS[operation] else run, "DIR": tmp_path}
    code, out, err = cli(
        *(re.sub("|".join(paths), lambda match: str(paths[match[0]]), word) for word in COMMANDS[operation].split())
    )
    refusal = refusal_of(point, operation)
    if refusal is None:
        assert code == 0, err
        assert list(tmp_path.iterdir()) or json.loads(out.splitlines()[-1])
    else:
        assert code == 2, out
        assert refusal in err
        assert not list(tmp_path.iterdir())


class Died(BaseException):
    """Simulates a kill."""


class Killer(Silent):
    def epoch(self, record: Any) -> None:
        raise Died


@pytest.mark.parametrize("point", POINTS, ids="-".join)
def test_a_run_killed_after_an_epoch_resumes_to_the_same_weights(run_of: RunOf, data: Path, tmp_path: Path, point: Point) -> None:
    options = options_of(point, data)
    with pytest.raises(Died):
        vaekit.train(**options, out=tmp_path / "run", reporter=Killer())
    vaekit.resume(tmp_path / "run")
    assert (tmp_path / "run/model.safetensors").read_bytes() == (run_of(point) / "model.safetensors").read_bytes()


def assert_close(run: vaekit.Run, expected: vaekit.Run) -> None:
    """Compare the metrics and the weights of two runs of some thirty steps in float32."""
    for one, other in zip(run.metrics(), expected.metrics(), strict=True):
        assert one.keys() == other.keys()
        for name in one:
            if name.startswith(("train_", "validation_")):
                assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-4), name
    weights, others = (load_file(each.path / "model.safetensors") for each in (run, expected))
    for name, tensor in others.items():
        assert torch.allclose(weights[name], tensor, rtol=1e-3, atol=1e-4), name


def has_bytes(point: Point) -> bool:
    """Return whether the data of a point are bytes."""
    role, kind = point
    return kind == "volumes" if role == "data" else role != "likelihood" or roles.likelihoods.get(kind).scores != "counts"


STACKED = [
    pytest.param(point, marks=pytest.mark.slow if point == ("loss", "perceptual") else (), id="-".join(point))
    for point in filter(has_bytes, POINTS)
]
"""The points to stack; copying a feature network takes a while."""


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("point", STACKED)
def test_stacked_models_equal_those_trained_alone(data: Path, tmp_path: Path, point: Point) -> None:
    """Float data, which stay in single precision, are skipped."""
    options = options_of(point, data)
    swept, _ = vaekit.sweep(over={"seed": (0, 1)}, **options, stack="on", out=tmp_path / "sweep")
    assert all(group["stacked"] for group in json.loads((tmp_path / "sweep/sweep.json").read_text())["groups"])
    alone = vaekit.train(**options, out=tmp_path / "alone")
    weights, expected = (load_file(run.path / "model.safetensors") for run in (swept, alone))
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        assert torch.allclose(tensor, expected[name], rtol=1e-7, atol=1e-9), name


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="compiling needs a C++ compiler")
@pytest.mark.parametrize("point", POINTS, ids="-".join)
def test_a_compiled_step_equals_the_eager_step(run_of: RunOf, data: Path, tmp_path: Path, point: Point) -> None:
    options = options_of(point, data)
    assert_close(vaekit.train(**options, compile="on", out=tmp_path / "run"), vaekit.Run(run_of(point)))


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS, ids="-".join)
def test_two_processes_train_like_one(run_of: RunOf, tmp_path: Path, point: Point) -> None:
    alone, out = vaekit.Run(run_of(point)), tmp_path / "run"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "vaekit"]
    arguments = ["train", str(alone.path / "spec.yaml"), "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *launcher, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_close(vaekit.Run(out), alone)
