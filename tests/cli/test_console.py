from __future__ import annotations

from typing import Any

import pytest

from vaekit.cli.console import JsonReporter, LineReporter, Quiet, RichReporter, choose_reporter
from vaekit.training.progress import Start

BINARY = "lower bound of log p(x), nats"
GREY = "cross-entropy on grey values, not a log-likelihood"


def start(elbo: str = BINARY, **changes: Any) -> Start:
    fields: dict[str, Any] = {
        "epochs": 2,
        "steps_per_epoch": 5,
        "num_steps": 10,
        "first_epoch": 0,
        "num_parameters": 1000,
        "device": "cpu",
    } | changes
    return Start(run="runs/x", num_images={"train": 80, "validation": 10, "test": 10}, elbo=elbo, **fields)


def record(epoch: int, *, density: bool = True) -> dict[str, Any]:
    terms = {"reconstruction": 90.0, "kl": 10.0, "elbo": -100.0} if density else {"reconstruction": 90.0}
    scores = {f"{split}_{name}": value for split in ("train", "validation") for name, value in terms.items()}
    return {"epoch": epoch, "step": 5 * epoch, "images_per_second": 1234.5, "validation_active_units": 7, "best": True} | scores


def evaluation(elbo: str = BINARY, *, density: bool = True) -> dict[str, Any]:
    terms = {"kl": 10.0, "elbo": -100.0} if density else {}
    about = {"split": "test", "num_images": 10, "epoch": 2, "elbo_is": elbo, "active_units": 7}
    return {**about, "reconstruction": 90.0, **terms}


def report(reporter: Quiet, elbo: str = BINARY, *, density: bool = True) -> None:
    with reporter:
        reporter.start(start(elbo))
        for epoch in (1, 2):
            reporter.step(epoch, 3, 1000.0, {"loss": 100.0, "reconstruction": 91.0})
            reporter.epoch(record(epoch, density=density))
        reporter.end(evaluation(elbo, density=density))


def test_each_epoch_prints_one_line_with_both_splits(capsys: pytest.CaptureFixture[str]) -> None:
    report(LineReporter())
    out = capsys.readouterr().out
    [first, second] = [line for line in out.splitlines() if line.startswith("epoch")]
    assert first.startswith("epoch 1/2  train: reconstruction 90.00  KL 10.00  ELBO -100.00  validation: reconstruction 90.00")
    assert "7 active  1,234 images/s" in second
    assert BINARY in out


@pytest.mark.parametrize("kind", [LineReporter, RichReporter])
def test_cross_entropy_on_grey_values_is_not_called_an_elbo(kind: type[Quiet], capsys: pytest.CaptureFixture[str]) -> None:
    report(kind(), GREY)
    out = capsys.readouterr().out
    assert "ELBO" not in out
    assert "reconstruction 90" not in out
    assert "-(CE+KL)" in out
    assert GREY in out


@pytest.mark.parametrize("kind", [LineReporter, RichReporter])
def test_posterior_without_density_has_no_elbo(kind: type[Quiet], capsys: pytest.CaptureFixture[str]) -> None:
    report(kind(), density=False)
    out = capsys.readouterr().out
    assert "the posterior or the prior has no density" in out
    assert "--samples" not in out
    assert BINARY not in out


def test_live_display_shows_progress_and_restores_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    reporter = RichReporter()
    report(reporter)
    out = capsys.readouterr().out
    assert "validation reconstruction" in out
    assert "images/s" in out
    assert "train so far: reconstruction 91.00" in out
    assert out.rindex("\x1b[?25h") > out.rindex("\x1b[?25l")
    assert reporter.live is None


def test_terminal_is_restored_if_training_ends_early(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = RichReporter()
    with reporter:
        reporter.start(start())
        assert reporter.live is not None
    assert reporter.live is None


def test_resumed_run_and_notes_are_mentioned(capsys: pytest.CaptureFixture[str]) -> None:
    LineReporter().start(start(first_epoch=1, notes=("threads were 2, now 4: not bit-exact",)))
    out = capsys.readouterr().out
    assert "resumed after epoch 1 of 2" in out
    assert "note: threads were 2" in out


def test_reporter_follows_the_options() -> None:
    assert isinstance(choose_reporter(json=True), JsonReporter)
    assert type(choose_reporter(quiet=True)) is Quiet
    assert type(choose_reporter()) is LineReporter
