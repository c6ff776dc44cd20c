"""Every operation works on a model of every component, or says in a sentence why it does not.

A new component is in the walk without being named here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small import PARTS, fitting_posterior, small_parts

import vaekit
from vaekit import roles
from vaekit.training.progress import Silent

Cli = Callable[..., tuple[int, str, str]]
Point = tuple[str, str]
RunOf = Callable[[Point], Path]

POINTS = [(registry.role, kind) for registry in PARTS for kind in registry.kinds()]

COMMANDS = {
    "evaluate": "evaluate RUN --json",
    "log p(x)": "evaluate RUN --samples 5 --json",
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
    "bench": "bench RUN/spec.yaml --batch-sizes 16 --seconds 0.1 --tasks train,encode,sample --json",
    "decoder.onnx": "export RUN --part decoder --onnx DIR/a.onnx",
    "encoder.onnx": "export RUN --part encoder --onnx DIR/a.onnx",
    "autoencoder.onnx": "export RUN --part autoencoder --onnx DIR/a.onnx",
    "decoder.pt2": "export RUN --part decoder --torch DIR/a.pt2",
    "autoencoder.pt2": "export RUN --part autoencoder --torch DIR/a.pt2",
}
SLOW = {"bench", "decoder.onnx", "encoder.onnx", "autoencoder.onnx", "decoder.pt2", "autoencoder.pt2"}


def options_of(point: Point, data: Path) -> dict[str, Any]:
    """Return the options of a small run that differs from the default in one component."""
    posterior = fitting_posterior(*point)
    chosen = dict([("encoder", "mlp"), ("decoder", "mlp"), ("posterior", posterior), ("likelihood", "bce"), point])
    options: dict[str, Any] = {"dataset": "array", "dataset.path": str(data), "latent_dim": 2, **small_parts(chosen)}
    if chosen["likelihood"] == "bce":
        options["binarize"] = "dynamic"
    options |= {"epochs": 2, "batch_size": 16, "threads": 1, "device": "cpu", "pictures": "none"}
    return options


@pytest.fixture(scope="module")
def run_of(labelled_run: Path, tmp_path_factory: pytest.TempPathFactory) -> RunOf:
    """Trains the run of a point at first use."""
    folder, runs = tmp_path_factory.mktemp("points"), {}

    def run_of(point: Point) -> Path:
        if point not in runs:
            options = options_of(point, labelled_run.parent / "images.npz")
            runs[point] = vaekit.train(**options, out=folder / "-".join(point)).path
        return runs[point]

    return run_of


def refusal_of(point: Point, operation: str) -> str | None:
    """Return the phrase with which an operation refuses a point, if it does."""
    role, kind = point
    density = role != "posterior" or bool(roles.posteriors.get(kind).provides)
    return None if density else {"log p(x)": "density"}.get(operation)


def test_every_picture_is_in_the_walk() -> None:
    assert set(roles.pictures.kinds()) <= COMMANDS.keys()


@pytest.mark.parametrize("operation", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in COMMANDS])
@pytest.mark.parametrize("point", POINTS, ids="-".join)
def test_an_operation(cli: Cli, run_of: RunOf, tmp_path: Path, point: Point, operation: str) -> None:
    run = run_of(point)
    paths = {"RUN": run, "OTHER": run_of(POINTS[point == POINTS[0]]), "DIR": tmp_path}
    command = re.sub("|".join(paths), lambda match: str(paths[match[0]]), COMMANDS[operation])
    code, out, err = cli(*command.split())
    refusal = refusal_of(point, operation)
    if refusal is None:
        assert code == 0, err
        assert list(tmp_path.iterdir()) or json.loads(out.splitlines()[-1])
    else:
        assert code == 2, out
        assert refusal in err
        assert not list(tmp_path.iterdir())


class Died(BaseException):
    """Stands for a kill."""


class Killer(Silent):
    def epoch(self, record: Any) -> None:
        raise Died


@pytest.mark.parametrize("point", POINTS, ids="-".join)
def test_a_run_that_dies_after_an_epoch_resumes_to_the_same_weights(
    run_of: RunOf, labelled_run: Path, tmp_path: Path, point: Point
) -> None:
    options = options_of(point, labelled_run.parent / "images.npz")
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


@pytest.fixture
def double() -> Iterator[None]:
    """Everything that is made is of double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("point", POINTS, ids="-".join)
def test_stacked_models_are_those_that_are_trained_alone(labelled_run: Path, tmp_path: Path, point: Point) -> None:
    options = options_of(point, labelled_run.parent / "images.npz")
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
def test_a_compiled_step_trains_as_the_step_that_python_takes(
    run_of: RunOf, labelled_run: Path, tmp_path: Path, point: Point
) -> None:
    options = options_of(point, labelled_run.parent / "images.npz")
    assert_close(vaekit.train(**options, compile="on", out=tmp_path / "run"), vaekit.Run(run_of(point)))


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS, ids="-".join)
def test_two_processes_train_as_one_does(run_of: RunOf, tmp_path: Path, point: Point) -> None:
    alone, out = vaekit.Run(run_of(point)), tmp_path / "run"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "vaekit"]
    arguments = ["train", str(alone.path / "spec.yaml"), "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *launcher, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_close(vaekit.Run(out), alone)
