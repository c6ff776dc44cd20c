"""The best epoch: by the loss, by another validation metric, or the last."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vaekit
from vaekit.errors import UsageError
from vaekit.store import checkpoint
from vaekit.training.progress import Silent, Start

RISING = {"lr": 0.05, "schedule": "constant", "epochs": 4}
"""Training with fluctuating metrics."""


def options(images: Path, **more: Any) -> dict[str, Any]:
    networks = {"encoder.hidden": (8,), "decoder.hidden": (8,), "latent_dim": 2, "likelihood": "bce", "binarize": "dynamic"}
    fixed = {"batch_size": 16, "threads": 1, "device": "cpu", "pictures": "none", "compile": "off"}
    return {"dataset": "array", "dataset.path": str(images), **networks, **fixed, **RISING, **more}


class Recorder(Silent):
    """Records the notes; optionally stops after an epoch."""

    def __init__(self, last: int = 0) -> None:
        self.last = last
        self.notes: list[str] = []

    def start(self, start: Start) -> None:
        self.notes += start.notes

    def note(self, line: str) -> None:
        self.notes.append(line)

    def epoch(self, record: Any) -> None:
        if record["epoch"] == self.last:
            raise KeyboardInterrupt


def last_of(values: list[float]) -> int:
    """Return the index of the last value."""
    return len(values) - 1


def check_chosen(run: vaekit.Run, metric: str, choose: Callable[[Any], Any]) -> None:
    """Check that weights, evaluation and metrics agree on the best epoch, which must not be the last by chance."""
    values = [record[f"validation_{metric}"] for record in run.metrics()]
    best = [record["epoch"] for record in run.metrics() if record["best"]]
    evaluation = run.evaluation()
    assert evaluation is not None
    assert evaluation["epoch"] == run.header.state["epoch"] == best[-1] == int(choose(values)) + 1
    assert best == [n for n in range(1, len(values) + 1) if int(choose(values[:n])) + 1 == n]


@pytest.mark.parametrize(
    ("best", "metric", "choose"),
    [
        ("auto", "loss", np.argmin),
        ("loss", "loss", np.argmin),
        ("kl", "kl", np.argmin),
        ("kl:max", "kl", np.argmax),
        ("elbo", "elbo", np.argmax),
        ("reconstruction", "reconstruction", np.argmin),
        ("beta", "beta", np.argmin),
        ("last", "loss", last_of),
    ],
)
def test_a_validation_metric_selects_the_best_epoch(
    images: Path, tmp_path: Path, best: str, metric: str, choose: Callable[[Any], Any]
) -> None:
    run = vaekit.train(**options(images, best=best, loss="beta", beta=3), out=tmp_path / "run")
    check_chosen(run, metric, choose)
    epochs = {checkpoint.load(file)[1].state["epoch"] for file in (run.folder.model, run.folder.best)}
    assert epochs == {run.header.state["epoch"]}


def test_metrics_select_different_epochs(images: Path, tmp_path: Path) -> None:
    """Otherwise, the test above would be meaningless."""
    records = vaekit.train(**options(images, loss="beta", beta=3), out=tmp_path / "run").metrics()
    kl, reconstruction, loss = ([record[f"validation_{name}"] for record in records] for name in ("kl", "reconstruction", "loss"))
    chosen = {np.argmin(kl), np.argmax(kl), np.argmin(reconstruction), np.argmin(loss)}
    assert len(chosen) >= 3
    assert np.argmin(loss) != len(loss) - 1


def test_with_a_critic_the_last_epoch_is_the_best(images: Path, tmp_path: Path) -> None:
    given = {**options(images, loss="factor"), "loss.hidden": (8,)}
    recorder = Recorder()
    run = vaekit.train(**given, out=tmp_path / "run", reporter=recorder)
    check_chosen(run, "loss", last_of)
    assert any("a critic is trained" in note for note in recorder.notes)
    chosen = vaekit.train(**given, best="loss", out=tmp_path / "chosen", reporter=(recorder := Recorder()))
    check_chosen(chosen, "loss", np.argmin)
    assert not any("critic" in note for note in recorder.notes)


def test_aims_that_are_not_judged_need_not_be_critics(images: Path, tmp_path: Path) -> None:
    run = vaekit.train(**options(images, loss="iwae", dreg=True), out=tmp_path / "run")
    check_chosen(run, "loss", np.argmin)


def test_the_best_epoch_survives_resumption(images: Path, tmp_path: Path) -> None:
    given = options(images, best="kl:max")
    whole = vaekit.train(**given, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        vaekit.train(**given, out=tmp_path / "cut", reporter=Recorder(3))
    resumed = vaekit.resume(tmp_path / "cut")
    assert [record["best"] for record in resumed.metrics()] == [record["best"] for record in whole.metrics()]
    assert resumed.folder.model.read_bytes() == whole.folder.model.read_bytes()


@pytest.mark.parametrize(
    ("stack", "best", "text"),
    [("on", "kl:max", "validation best kl"), ("on", "last", "validation loss"), ("off", "kl:max", "loss")],
)
def test_each_model_of_a_sweep_has_its_best_epoch(images: Path, tmp_path: Path, stack: Any, best: str, text: str) -> None:
    given, recorder = options(images, best=best), Recorder()
    for run in vaekit.sweep(over={"seed": (0, 1)}, stack=stack, out=tmp_path / "sweep", reporter=recorder, **given):
        check_chosen(run, "kl", {"kl": np.argmin, "kl:max": np.argmax, "last": last_of}[best])
    assert any(text in note for note in recorder.notes)


@pytest.mark.parametrize(
    ("best", "more", "message"),
    [
        ("fid", {}, "metric fid is not available(.*\n)*.*--best last, .*loss, .*kl.*elbo"),
        ("none", {}, "metric none is not available"),
        ("kl_per_latent", {}, "metric kl_per_latent is not available"),
        ("elbo", {"posterior": "delta"}, "metric elbo is not available.*: the posterior 'delta' has no density"),
        ("kl:up", {}, "unknown direction of a metric"),
    ],
)
def test_an_unknown_metric_is_refused_before_training(
    images: Path, tmp_path: Path, best: str, more: dict[str, Any], message: str
) -> None:
    given = options(images, **more)
    with pytest.raises(UsageError, match=message):
        vaekit.train(**given, best=best, out=tmp_path / "run")
    with pytest.raises(UsageError, match=message):
        vaekit.sweep(over={"best": ("loss", best)}, out=tmp_path / "sweep", **given)
    assert {path.name for path in tmp_path.iterdir()} == {"images.npy"}
