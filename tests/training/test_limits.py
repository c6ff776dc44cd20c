"""Limits of a run and how it continues: steps, time, patience, more epochs, warm-up."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import vaekit
from vaekit.cli import main
from vaekit.errors import CheckpointError, SpecError, UsageError
from vaekit.specs.models import TrainSpec
from vaekit.specs.options import build_spec
from vaekit.training.progress import Silent, Start
from vaekit.training.step import Step
from vaekit.training.trainer import Trainer

STEPS = 6
"""The number of steps of an epoch."""
TIMES = {"seconds", "epoch_seconds", "images_per_second"}
RISING = {"lr": 0.02, "schedule": "constant", "seed": 1}
"""Training whose validation loss goes up and down."""


def options(images: Path, **more: Any) -> dict[str, Any]:
    networks = {"encoder.hidden": (8,), "decoder.hidden": (8,), "latent_dim": 2, "likelihood": "bce", "binarize": "dynamic"}
    fixed = {"batch_size": 16, "epochs": 4, "threads": 1, "device": "cpu", "pictures": "none", "compile": "off"}
    return {"dataset": "array", "dataset.path": str(images), **networks, **fixed, **more}


class Teller(Silent):
    """Keeps all notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def start(self, start: Start) -> None:
        self.notes += start.notes

    def note(self, line: str) -> None:
        self.notes.append(line)

    def said(self, text: str) -> bool:
        return any(text in note for note in self.notes)


def stop_of(losses: list[float], patience: int) -> int:
    """Return the epoch after which a run stops: the last one, or the first that is `patience` epochs after the lowest loss."""
    epochs = range(1, len(losses) + 1)
    return next((n for n in epochs if n - 1 - losses.index(min(losses[:n])) == patience), len(losses))


def lines_of(run: vaekit.Run) -> list[dict[str, Any]]:
    """Return the records of the epochs, without times."""
    return [{name: value for name, value in record.items() if name not in TIMES} for record in run.metrics()]


def assert_same_run(one: vaekit.Run, other: vaekit.Run) -> None:
    """Check that two runs are equal to the bit: the latest state, the model, every number."""
    for file in ("last", "best", "model"):
        ours, theirs = (load_file(getattr(run.folder, file)) for run in (one, other))
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert torch.equal(tensor, theirs[name]), f"{file}: {name}"
    assert lines_of(one) == lines_of(other)
    assert one.evaluation() == other.evaluation()
    assert one.is_complete()
    assert other.is_complete()


# The warm-up


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rates of the steps that are taken, as the optimisers see them."""
    seen: list[float] = []
    take = Step.update

    def update(self: Step, *arguments: Any) -> None:
        seen.extend(float(optimizer.param_groups[0]["lr"]) for optimizer in self.optimizers)
        take(self, *arguments)

    monkeypatch.setattr(Step, "update", update)
    return seen


@pytest.mark.parametrize(
    ("more", "factors"),
    [
        ({"schedule": "constant"}, [0.25, 0.5, 0.75, *[1] * 9]),
        ({"schedule": "step", "lr_milestones": (1,), "lr_gamma": 0.5}, [0.25, 0.5, 0.75, 1, 1, 1, *[0.5] * 6]),
        ({}, [0.25, 0.5, 0.75, 1.0, *[0.5 * (1 + math.cos(math.pi * n / 8)) for n in range(8)]]),
        ({"max_steps": 8}, [0.25, 0.5, 0.75, 1.0, *[0.5 * (1 + math.cos(math.pi * n / 4)) for n in range(4)]]),
    ],
)
def test_the_learning_rate_rises_to_its_peak_before_its_schedule(
    images: Path, tmp_path: Path, rates: list[float], more: dict[str, Any], factors: list[float]
) -> None:
    run = vaekit.train(**options(images, epochs=2, lr=0.01, warmup_steps=4, **more), out=tmp_path / "run")
    assert rates == pytest.approx([0.01 * factor for factor in factors], rel=1e-12)
    assert [record["lr"] for record in run.metrics()] == [rates[STEPS - 1], rates[-1]]


# Steps


def test_a_run_of_some_steps_is_the_beginning_of_a_longer_one(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = options(images, schedule="constant", ema=0.5)
    run = vaekit.train(**given, max_steps=15, out=tmp_path / "run")
    assert run.spec.train.epochs == 3
    assert [(record["epoch"], record["step"]) for record in run.metrics()] == [(1, 6), (2, 12), (3, 15)]
    seen: dict[str, torch.Tensor] = {}
    take = Step.__call__

    def stop(self: Step, reading: Any) -> dict[str, torch.Tensor]:
        if reading.number == 15:
            seen.update({name: tensor.clone() for name, tensor in self.objective.state_dict().items()})
        return take(self, reading)

    monkeypatch.setattr(Step, "__call__", stop)
    longer = vaekit.train(**given, out=tmp_path / "longer")
    last = load_file(run.folder.last)
    assert len(seen) > 4
    for name, tensor in seen.items():
        assert torch.equal(tensor, last[f"objective.{name}"]), name
    assert lines_of(longer)[:2] == lines_of(run)[:2]
    assert run.is_complete()


@pytest.mark.parametrize(
    ("given", "epochs", "steps"),
    [({}, 4, 20), ({"epochs": 2}, 2, 12), ({"epochs": 9}, 4, 20)],
)
def test_there_are_as_many_epochs_as_the_steps_need(
    images: Path, tmp_path: Path, given: dict[str, Any], epochs: int, steps: int
) -> None:
    rest = {name: value for name, value in options(images, lr=1e-60).items() if name != "epochs"}
    teller = Teller()
    run = vaekit.train(**{**rest, "max_steps": 20, **given}, out=tmp_path / "run", reporter=teller)
    assert (run.spec.train.epochs, run.metrics()[-1]["step"], len(run.metrics())) == (epochs, steps, epochs)
    assert teller.said("--epochs 2 ends the run after 12 steps, before --max-steps") == (given == {"epochs": 2})
    again = vaekit.train(run.folder.spec, out=tmp_path / "again")
    assert again.folder.model.read_bytes() == run.folder.model.read_bytes()


def test_a_run_that_steps_ended_goes_on_with_the_next_epoch(images: Path, tmp_path: Path) -> None:
    run = vaekit.train(**options(images, schedule="constant", max_steps=8), out=tmp_path / "run")
    with pytest.raises(UsageError, match=r"complete: all 2 epochs are complete(.*\n)*.*--max-steps 8"):
        vaekit.resume(run.path, epochs=9)
    teller = Teller()
    longer = vaekit.resume(run.path, max_steps=20, reporter=teller)
    assert teller.said("--max-steps had ended epoch 2 early: training continues with the next epoch")
    assert [record["step"] for record in longer.metrics()] == [6, 8, 18, 20]
    assert (longer.spec.train.epochs, longer.spec.train.max_steps) == (4, 20)
    assert vaekit.resume(run.path, epochs=5, max_steps="none").metrics()[-1]["step"] == 30


# Patience


def test_a_run_stops_early_and_keeps_its_best_epoch(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = options(images, **RISING, epochs=12)
    whole = vaekit.train(**given, out=tmp_path / "whole")
    losses = [record["validation_loss"] for record in whole.metrics()]
    stop = stop_of(losses, 2)
    assert 3 < stop < 11  # it stops by its patience, and not at once
    teller = Teller()
    run = vaekit.train(**given, patience=2, out=tmp_path / "run", reporter=teller)
    assert lines_of(run) == lines_of(whole)[:stop]
    evaluation = run.evaluation()
    assert evaluation is not None
    assert evaluation["epoch"] == run.header.state["epoch"] == stop - 2
    assert run.is_complete()
    assert teller.said(f"stops early, after epoch {stop} of 12: no better validation loss than in epoch {stop - 2}")
    assert main(["resume", str(run.path)]) == 2
    assert f"complete: it stopped after epoch {stop}" in capsys.readouterr().err
    with pytest.raises(UsageError, match="--patience 2"):
        vaekit.resume(run.path, epochs=20)
    assert_same_run(vaekit.resume(run.path, patience=None), whole)


def test_each_model_of_a_stack_stops_by_itself_also_if_the_sweep_is_killed(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, teller = options(images, lr=0.02, schedule="constant", max_steps=40, epochs=7), Teller()
    over = {"patience": (1, 2), "seed": (1, 2)}
    whole = vaekit.sweep(over=over, stack="on", out=tmp_path / "whole", reporter=teller, **given)
    groups = json.loads((tmp_path / "whole" / "sweep.json").read_text())["groups"]
    assert [len(group["numbers"]) for group in groups] == [4]
    alone = {seed: vaekit.train(**given, seed=seed, out=tmp_path / f"alone-{seed}").metrics() for seed in (1, 2)}
    lengths = [len(run.metrics()) for run in whole]
    for run, length in zip(whole, lengths, strict=True):
        patience, losses = run.spec.train.patience, [record["validation_loss"] for record in alone[run.spec.train.seed]]
        assert patience is not None
        assert length == stop_of(losses, patience)
        assert [record["validation_loss"] for record in run.metrics()] == pytest.approx(losses[:length], rel=1e-5)
        assert run.is_complete()
        assert run.metrics()[-1]["step"] == min(6 * length, 40)
        assert load_file(run.folder.last)["optimizer.0.0.step"] == min(6 * length, 40)
        assert teller.said(f"{run.path.name} stops early, after epoch {length}") == (length < 7)
    assert len(set(lengths)) > 1

    class Died(BaseException):
        """Stands for a kill."""

    finish = Trainer.finish

    def die(self: Trainer) -> dict[str, Any]:
        if self.position.epoch == max(lengths):
            raise Died
        return finish(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "finish", die)
        with pytest.raises(Died):
            vaekit.sweep(over=over, stack="on", out=tmp_path / "cut", **given)
    for one, other in zip(whole, vaekit.resume_sweep(tmp_path / "cut"), strict=True):
        assert_same_run(one, other)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"best": "last", "patience": 3}, r"early stopping needs a validation metric(.*\n)*.*--patience 3, --best last"),
        ({"loss": "factor", "loss.hidden": (8,), "patience": 3}, "--best auto, which is last with a critic"),
        ({"warmup_steps": 24}, r"never reach its peak(.*\n)*.*fewer steps than the 24 of the run"),
        ({"warmup_steps": 9, "max_steps": 8}, "never reach its peak"),
    ],
)
def test_what_cannot_be_is_refused_before_training(images: Path, tmp_path: Path, more: dict[str, Any], message: str) -> None:
    given = options(images, **more)
    with pytest.raises(UsageError, match=message):
        vaekit.train(**given, out=tmp_path / "run")
    with pytest.raises(UsageError, match=message):
        vaekit.sweep(over={"seed": (0, 1)}, out=tmp_path / "sweep", **given)
    assert {path.name for path in tmp_path.iterdir()} == {"images.npy"}


# More epochs


@pytest.mark.parametrize(
    "more",
    [
        {"schedule": "constant", "ema": 0.5, "loss": "beta", "beta": "linear(0, 1, 3)"},
        {"schedule": "step", "lr_milestones": (1, 3), "warmup_steps": 3},
    ],
    ids=["constant", "step"],
)
def test_a_run_with_more_epochs_is_what_it_would_have_been(images: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    given = options(images, **{**more, "pictures": "every:1"})
    whole = vaekit.train(**given, out=tmp_path / "whole")
    run = vaekit.train(**{**given, "epochs": 2}, out=tmp_path / "run")
    assert main(["resume", str(run.path), "--epochs", "4", "--quiet"]) == 0
    longer = vaekit.Run(run.path)
    assert_same_run(longer, whole)
    assert longer.spec == whole.spec
    for file in whole.path.rglob("*.png"):
        assert file.read_bytes() == (longer.path / file.relative_to(whole.path)).read_bytes(), file
    with Image.open(whole.folder.gif) as ours, Image.open(longer.folder.gif) as theirs:
        assert ours.n_frames == theirs.n_frames == 4  # type: ignore[attr-defined] # of animations
        for frame in range(4):
            ours.seek(frame)
            theirs.seek(frame)
            assert ours.convert("L").tobytes() == theirs.convert("L").tobytes()
    with pytest.raises(UsageError, match="complete: all 4 epochs are complete"):
        vaekit.resume(run.path)


def test_a_cosine_spans_the_new_number_of_steps_from_there_on(images: Path, tmp_path: Path) -> None:
    run = vaekit.train(**options(images, epochs=2, lr=1.0e-3), out=tmp_path / "run")
    teller = Teller()
    vaekit.resume(run.path, epochs=4, reporter=teller)
    assert teller.said("follows a cosine over 24 steps from here on, instead of 12, and continues at 0.0005:")
    expected = [0.5e-3 * (1 + math.cos(math.pi * step / steps)) for step, steps in ((5, 12), (11, 12), (17, 24), (23, 24))]
    assert [record["lr"] for record in run.metrics()] == pytest.approx(expected)


@pytest.mark.parametrize("phase", ["complete", "finish"])
def test_a_run_that_is_killed_in_its_further_epochs_resumes(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """Its spec has the new limits at the beginning, and its evaluation is of the earlier best epoch at the end."""
    given = options(images, schedule="constant")
    whole = vaekit.train(**given, out=tmp_path / "whole")
    run = vaekit.train(**{**given, "epochs": 2}, out=tmp_path / "run")

    class Died(BaseException):
        """Stands for a kill."""

    def die(self: Trainer) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, phase, die)
        with pytest.raises(Died):
            vaekit.resume(run.path, epochs=4)
    assert_same_run(vaekit.resume(run.path), whole)


def test_limits_that_cannot_be_leave_the_run_as_it_is(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = vaekit.train(**options(images, epochs=2), out=tmp_path / "run")
    text = run.folder.spec.read_text("utf-8")
    for limits, error, message in (
        ({"lr": 1}, UsageError, r"except for its limits(.*\n)*.*epochs, max_steps, max_time, patience"),
        ({"epochs": "many"}, SpecError, "epochs: "),
        ({"epochs": 2}, UsageError, "complete: all 2 epochs are complete"),
        ({"epochs": 1}, UsageError, "complete: all 2 epochs are complete"),
    ):
        with pytest.raises(error, match=message):
            vaekit.resume(run.path, **limits)
        assert run.folder.spec.read_text("utf-8") == text
    assert run.is_complete()
    run.folder.evaluation.unlink()
    with pytest.raises(CheckpointError, match=r"cannot be shortened(.*\n)*.*1 epochs, 2 of them completed"):
        vaekit.resume(run.path, epochs=1)
    assert run.folder.spec.read_text("utf-8") == text
    vaekit.sweep(over={"seed": (0,)}, out=tmp_path / "sweep", **options(images, epochs=1))
    assert main(["resume", str(tmp_path / "sweep"), "--epochs", "3"]) == 2
    assert "the limits of a sweep cannot be changed" in capsys.readouterr().err


# Time


def test_a_run_whose_time_is_up_has_results_and_goes_on(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = options(images, ema=0.5, pictures="every:1")
    whole = vaekit.train(**given, out=tmp_path / "whole")
    taken = []

    def at_step_14(self: Trainer) -> bool:
        taken.append(self.position.step)
        return len(taken) == 16  # with two ends of epochs

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "time_is_up", at_step_14)
        run = vaekit.train(**given, max_time="1h", out=tmp_path / "run", reporter=(teller := Teller()))
    assert teller.said(f"pauses in epoch 3 of 4: 1:00:00 have passed (--max-time); continue with: vaekit resume {run.path}")
    assert (run.position(), run.is_complete()) == ((2, 2), False)
    evaluation = run.evaluation()
    assert evaluation is not None
    assert evaluation["epoch"] == run.metrics()[-1]["epoch"] == 2
    assert vaekit.load(run.path).sample(2).shape == (2, 1, 9, 7)
    assert main(["resume", str(run.path)]) == 0
    assert f"{run.path.name}: " in capsys.readouterr().out
    assert_same_run(vaekit.Run(run.path), whole)
    assert run.folder.gif.read_bytes() == whole.folder.gif.read_bytes()


def test_a_run_whose_time_is_up_at_once_says_that_there_is_no_model(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = vaekit.train(**options(images, epochs=1), out=tmp_path / "whole")
    run = vaekit.train(**options(images, epochs=1, max_time=1e-9), out=tmp_path / "run")
    assert run.position() == (0, 1)
    assert main(["resume", str(run.path)]) == 0
    assert "pauses in epoch 1 of 1: 0:00 have passed (--max-time)" in (out := capsys.readouterr().out)
    assert "no epoch is complete, so there is no model yet" in out
    assert run.position() == (0, 2)
    assert not run.folder.evaluation.exists()
    assert_same_run(vaekit.resume(run.path, max_time="none"), whole)


def test_models_of_a_sweep_or_search_have_no_time_limit(images: Path, tmp_path: Path) -> None:
    given = options(images, max_time="30m")
    with pytest.raises(UsageError, match=r"cannot be compared(.*\n)*.*--max-time 1800s"):
        vaekit.sweep(over={"seed": (0, 1)}, out=tmp_path / "sweep", **given)
    pytest.importorskip("optuna")
    with pytest.raises(UsageError, match=r"cannot be compared(.*\n)*.*--max-time 1800s"):
        vaekit.search(over={"seed": (0, 1)}, trials=1, storage=tmp_path / "journal", out=tmp_path / "search", **given)
    assert {path.name for path in tmp_path.iterdir()} == {"images.npy"}


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1h 30m", 5400), ("1.5h", 5400), ("2d", 172800), ("45", 45), (2.5, 2.5)],
)
def test_times_are_read(given: Any, seconds: float) -> None:
    spec = build_spec({}, {"max_time": given})
    assert spec.train.max_time == seconds
    assert build_spec(spec.model_dump(mode="json"), {}) == spec
    assert build_spec({"train": {"max_time": given}}, {"max_time": "none"}).train.max_time is None


@pytest.mark.parametrize("given", ["soon", "30x", "m", "", "0", "-1m", "1h-30m", "inf"])
def test_what_is_no_time_is_refused(given: str) -> None:
    with pytest.raises(SpecError, match="max_time: "):
        build_spec({}, {"max_time": given})


def test_a_run_is_over_after_its_last_epoch_or_when_patience_is_at_an_end() -> None:
    train = TrainSpec(epochs=5, patience=2)
    over = [(epoch, best) for epoch in range(7) for best in range(epoch + 1) if train.is_over(epoch, best)]
    assert over == [(2, 0), (3, 0), (3, 1), (4, 0), (4, 1), (4, 2), *((e, b) for e in (5, 6) for b in range(e + 1))]
    assert [TrainSpec(epochs=5, max_steps=most).num_steps(6) for most in (None, 1, 29, 30, 31)] == [30, 1, 29, 30, 30]
