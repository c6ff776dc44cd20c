"""Losses that adjust β by a controller: GECO and ControlVAE."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import vaekit
from vaekit import roles
from vaekit.components.losses.control import Control
from vaekit.components.losses.geco import FASTEST, GECO, LARGEST
from vaekit.distributions import DiagonalGaussian, StandardNormal
from vaekit.errors import UsageError
from vaekit.trace import Site, Trace
from vaekit.training.progress import Silent

F64 = torch.float64
ROOT = Path(__file__).parents[2]
FLOAT32 = 1e-6
"""Relative error of options, which are float32 until the loss is converted to float64."""


def trace(kl: float, error: float = 0.0, *, batch: int = 4, epoch: float | None = None) -> Trace:
    """Return the trace of 2×3 images with a given KL and a given error per pixel."""
    mu = torch.full((batch, 1), math.sqrt(2 * kl), dtype=F64)
    site = Site(mu, DiagonalGaussian(mu, torch.zeros_like(mu)), StandardNormal(torch.zeros(1, dtype=F64)))
    absent: Any = None
    time = None if epoch is None else torch.tensor(epoch, dtype=F64)
    return Trace(absent, (site,), absent, epoch=time, _log_likelihood=torch.full((batch,), -6 * error, dtype=F64))


def advance(loss: Any, state: dict[str, Tensor]) -> None:
    for name, value in state.items():
        loss.get_buffer(name).copy_(value)


def test_geco_follows_its_algorithm() -> None:
    loss = GECO((1, 2, 3), tolerance=0.2, rate=0.5, decay=0.9).double()
    advance(loss, loss.initial_state(trace(3, error=0.21)))
    moving, log_beta = 0.21, 0.0
    for error in (0.21, 0.23, 0.19, 0.17, 0.1):
        torch.testing.assert_close(loss(trace(3)), torch.full((4,), 3 * math.exp(log_beta), dtype=F64), rtol=FLOAT32, atol=0)
        advance(loss, loss.next_state(trace(3, error)))
        moving = 0.9 * moving + 0.1 * error
        log_beta -= 0.5 * (moving - 0.2)
        assert loss.beta.item() == pytest.approx(math.exp(log_beta), rel=FLOAT32)
    assert loss.error.item() == pytest.approx(moving, rel=FLOAT32)


def test_beta_of_geco_changes_by_at_most_2_percent_per_step_within_bounds() -> None:
    for error, sign in ((100.0, -1), (-100.0, 1)):
        loss = GECO((1, 2, 3)).double()
        advance(loss, loss.initial_state(trace(1, error)))
        advance(loss, loss.next_state(trace(1, error)))
        assert loss.beta.item() == pytest.approx(math.exp(sign * FASTEST), rel=FLOAT32)
        for _ in range(600):
            advance(loss, loss.next_state(trace(1, error)))
        assert loss.beta.item() == pytest.approx(LARGEST**sign, rel=FLOAT32)


def test_control_follows_its_algorithm() -> None:
    loss = Control(kl=5, kp=0.3, ki=0.01, beta_min=0.5, beta_max=3).double()
    total = 0.0
    for kl in (9.0, 7.0, 20.0, 4.0, 5.0):
        advance(loss, loss.next_state(trace(kl)))
        total += 0.01 * (kl - 5)
        assert loss.beta.item() == pytest.approx(0.5 + 0.3 / (1 + math.exp(5 - kl)) + total, rel=FLOAT32)
        torch.testing.assert_close(loss(trace(2)), 2 * loss.beta.expand(4))


def test_the_integral_of_control_does_not_wind_up() -> None:
    loss = Control(kl=5, ki=0.1, kp=0.0, beta_max=2).double()
    for _ in range(100):
        advance(loss, loss.next_state(trace(50)))
    assert loss.beta == 2
    advance(loss, loss.next_state(trace(0)))
    assert loss.beta.item() == pytest.approx(1.5)
    for _ in range(100):
        advance(loss, loss.next_state(trace(0)))
    assert loss.beta == 0
    with pytest.raises(UsageError, match="beta_min < beta_max"):
        Control(beta_min=3, beta_max=3)


def test_set_points_may_follow_schedules() -> None:
    schedule: Any = roles.losses.spec("control").model_validate({"kl": "linear(0, 20, 10)"})
    loss = Control(kl=schedule.kl, kp=0.0, ki=0.01).double()
    assert loss.next_state(trace(7, epoch=2.5))["integral"].item() == pytest.approx(0.02)
    assert loss.next_state(trace(7, epoch=9))["integral"] == 0


# Training


def options(**more: Any) -> dict[str, Any]:
    networks = {"encoder.hidden": (64,), "decoder.hidden": (64,), "latent_dim": 8}
    return {**networks, "batch_size": 64, "threads": 1, "device": "cpu", "pictures": "none", **more}


def test_geco_reaches_its_tolerance_on_digits(tmp_path: Path) -> None:
    run = vaekit.train(loss="geco", tolerance=0.2, decay=0.9, epochs=5, **options(schedule="constant"), out=tmp_path / "run")
    *_, before, last = run.metrics()
    assert last["train_reconstruction"] / 784 == pytest.approx(0.2, abs=0.003)
    assert last["train_beta"] != pytest.approx(1, rel=0.5)  # the plain VAE is elsewhere
    assert last["best"]  # losses under different β are not comparable
    assert before["epoch"] == 4


def test_control_holds_the_kl_of_digits(tmp_path: Path) -> None:
    run = vaekit.train(
        loss="control", **{"loss.kl": 12}, ki=0.003, epochs=4, **options(schedule="constant"), out=tmp_path / "run"
    )
    last = run.metrics()[-1]
    assert last["train_kl"] == pytest.approx(12, abs=0.3)
    assert last["train_beta"] > 1.2


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (125, 9, 7), dtype=np.uint8))
    return path


def small(images: Path, **more: Any) -> dict[str, Any]:
    model = {"encoder.hidden": (8,), "decoder.hidden": (8,), "latent_dim": 2, "likelihood": "bce", "binarize": "dynamic"}
    fixed = {"batch_size": 16, "epochs": 3, "threads": 1, "device": "cpu", "pictures": "none", "ema": 0.5}
    return {"dataset": "array", "dataset.path": str(images), **model, **fixed, **more}


class Died(BaseException):
    """Simulates a kill."""


class Killer(Silent):
    def epoch(self, record: Any) -> None:
        raise Died


@pytest.mark.parametrize("kind", ["geco", "control"])
def test_a_run_resumes_with_its_beta_to_the_same_bytes(images: Path, tmp_path: Path, kind: str) -> None:
    run = vaekit.train(**small(images, loss=kind), out=tmp_path / "run")
    with pytest.raises(Died):
        vaekit.train(**small(images, loss=kind), out=tmp_path / "other", reporter=Killer())
    vaekit.resume(tmp_path / "other")
    for file in ("model.safetensors", "checkpoints/last.safetensors"):
        one, other = load_file(run.path / file), load_file(tmp_path / "other" / file)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one), file
    state = load_file(run.path / "checkpoints/last.safetensors")
    assert state[f"objective.losses.{kind}.beta"] == pytest.approx(run.metrics()[-1]["train_beta"], rel=0.3)
    assert f"average.losses.{kind}.beta" in state


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "more"), [("geco", {"tolerance": 0.69, "decay": 0}), ("control", {})])
def test_several_processes_set_the_same_beta_as_one(images: Path, tmp_path: Path, kind: str, more: dict[str, Any]) -> None:
    given = small(images, loss=kind, **more)
    flags = [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", flag(value))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launcher, "-m", "vaekit", "train", *flags, "--quiet", "--out", str(tmp_path / "two")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    vaekit.train(**given, out=tmp_path / "one")
    two, one = (load_file(tmp_path / each / "checkpoints/last.safetensors") for each in ("two", "one"))
    name = f"objective.losses.{kind}.beta"
    assert one[name] != roles.losses.get(kind)(*((1, 9, 7),) * (kind == "geco")).beta
    learned = [name for name in one if f"losses.{kind}" in name]
    assert len(learned) == 4  # two buffers, and their averages
    for name in learned:  # sums over the batch are rounded in another order; those of half a batch differ by 1e-3
        torch.testing.assert_close(two[name], one[name], rtol=1e-5, atol=0, msg=lambda text, name=name: f"{name}: {text}")


def flag(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize(("kind", "name", "values"), [("geco", "tolerance", (0.5, 0.9)), ("control", "loss.kl", (1.0, 3.0))])
def test_a_sweep_stacks_controllers_with_separate_states(
    images: Path, tmp_path: Path, kind: str, name: str, values: tuple[float, ...]
) -> None:
    runs = vaekit.sweep(over={name: values}, stack="on", **small(images, loss=kind), out=tmp_path / "sweep")
    for run, value in zip(runs, values, strict=True):
        alone = vaekit.train(**small(images, loss=kind, **{name: value}), out=tmp_path / f"alone-{value}")
        together = load_file(run.path / "checkpoints/last.safetensors")
        for key, tensor in load_file(alone.path / "checkpoints/last.safetensors").items():
            if f"losses.{kind}" in key:  # rounding: float32, some 20 steps of Adam
                torch.testing.assert_close(together[key], tensor, rtol=1e-3, atol=1e-5)
    assert len({run.metrics()[-1]["train_beta"] for run in runs}) == 2
