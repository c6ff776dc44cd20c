"""`vaekit sweep` at the command line."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vaekit.cli import main

TINY = [
    "--encoder.hidden",
    "8",
    "--decoder.hidden",
    "8",
    "--latent-dim",
    "2",
    "--batch-size",
    "16",
    "--epochs",
    "1",
    "--threads",
    "1",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    file = tmp_path_factory.mktemp("data") / "images.npy"
    np.save(file, np.random.default_rng(0).integers(0, 256, (64, 8, 8), dtype=np.uint8))
    return ["--dataset", "array", "--path", str(file)]


def test_a_sweep_prints_a_row_and_writes_a_folder_per_model(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["sweep", *data, *TINY, "--loss", "beta", "--over", "beta=1,4", "--over", "seed=0..1", "--stack", "on"]
    assert main([*arguments, "--out", str(tmp_path / "sweep")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "4 models, 4 of them stacked" in out
    assert all(word in out for word in ("beta", "seed", "ELBO", "reconstruction", "KL", "active units"))
    names = sorted(path.name for path in (tmp_path / "sweep").iterdir())
    assert names == ["0001-beta=1-seed=0", "0002-beta=1-seed=1", "0003-beta=4-seed=0", "0004-beta=4-seed=1", "sweep.json"]
    assert main(["evaluate", str(tmp_path / "sweep" / names[0])]) == 0


def test_a_sweep_resumes_from_its_folder(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vaekit.training.step import Step

    step, taken = Step.__call__, []

    def stop_at_five(self: Step, reading: Any) -> Any:
        taken.append(reading.number)
        if len(taken) == 5:  # in the second run
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, reading)

    folder = tmp_path / "sweep"
    with monkeypatch.context() as patch:
        patch.setattr(Step, "__call__", stop_at_five)
        assert main(["sweep", *data, *TINY, "--over", "seed=0,1", "--stack", "off", "--out", str(folder)]) == 130
    assert capsys.readouterr().err == f"interrupted; resume with: vaekit resume {folder}\n"
    assert main(["sweep", *data, *TINY, "--over", "seed=0,1", "--out", str(folder)]) == 2
    assert f"or continue the sweep with `vaekit resume {folder}`" in capsys.readouterr().err
    assert main(["resume", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "1 of 2 models to continue" in out
    assert "active units" in out
    assert all("test" in row for row in json.loads((folder / "sweep.json").read_text("utf-8"))["runs"])
    assert main(["resume", str(folder)]) == 2
    assert "all 2 runs are done" in capsys.readouterr().err


def test_a_search_prints_its_trials_and_continues(data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = ["--search", "optuna", "--storage", str(tmp_path / "study.journal"), "--over", "lr=1e-4..1e-2:log"]
    arguments = ["sweep", *data, *TINY, *search, "--over", "latent-dim=2..4", "--metric", "active_units:max"]
    arguments = [word for word in arguments if word not in {"--latent-dim", "2"}]
    folder = tmp_path / "sweep"
    assert main([*arguments, "--trials", "2", "--out", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "0001-lr=" in out
    assert all(word in out for word in ("lr", "latent_dim", "validation", "best:"))
    assert main([*arguments, "--trials", "3", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads((folder / "sweep.json").read_text("utf-8"))
    assert len(record["runs"]) == 3
    assert record["metric"] == "active_units:max"
    assert main(["resume", str(folder)]) == 2
    assert "is a search" in capsys.readouterr().err


def test_json_output_is_the_summary(data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--json", *data, *TINY, "--over", "seed=0,1", "--out", str(tmp_path / "sweep")]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary == json.loads((tmp_path / "sweep" / "sweep.json").read_text("utf-8"))
    assert [row["options"] for row in summary["runs"]] == [{"seed": "0"}, {"seed": "1"}]
    assert all(np.isfinite(row["test"]["loss"]) for row in summary["runs"])
    for row in summary["runs"]:
        lines = [json.loads(line) for line in (tmp_path / "sweep" / row["run"] / "metrics.jsonl").read_text("utf-8").splitlines()]
        (best,) = (line for line in lines if line["epoch"] == row["test"]["epoch"])
        assert row["validation"]["elbo"] == best["validation_elbo"] != row["test"]["elbo"]


def test_models_are_shown_with_the_validation_set_first(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", *data, *TINY, "--over", "seed=0,1", "--out", str(tmp_path / "sweep")]) == 0
    lines = capsys.readouterr().out.splitlines()
    (heading,) = (line.split() for line in lines if line.split()[:2] == ["run", "seed"])
    assert (heading[2], heading[-2:]) == ("ELBO", ["test", "ELBO"])
    (row,) = (line.split() for line in lines if line.split()[:1] == ["0002"])
    summary = json.loads((tmp_path / "sweep" / "sweep.json").read_text("utf-8"))["runs"][1]
    assert float(row[2].replace(",", "")) == pytest.approx(summary["validation"]["elbo"], abs=0.006)
    assert float(row[-1].replace(",", "")) == pytest.approx(summary["test"]["elbo"], abs=0.006)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to sweep over"),
        (["--over", "beta"], "expected OPTION=VALUES"),
        (["--over", "betta=1,2"], "unknown option betta"),
        (["--over", "seed=1,2", "--over", "seed=3"], "varied twice"),
        (["--over", "seed=1,2", "--stack", "maybe"], "unknown value of --stack"),
        (["--over", "seed=1,2", "--sed", "3"], "unknown option sed"),
        (["--over", "epochs=1,2", "--stack", "on", "--epochs", "1"], "set and varied"),
        (["--over", "lr=1e-4..1e-2"], "let --search optuna choose"),
        (["--over", "lr=1e-2..1e-4"], "invalid range"),
        (["--over", "lr=0.0..1.0:log"], "above 0"),
        (["--over", "seed=1,2", "--trials", "3", "--prune", "off"], "takes --trials, --prune"),
        (["--over", "seed=1,2", "--search", "random"], "unknown value of --search"),
        (["--over", "seed=1,2", "--search", "optuna", "--trials", "3"], "needs --storage and --trials"),
        (["--over", "seed=1,2", "--search", "optuna", "--stack", "on"], "does not take --stack"),
    ],
)
def test_an_invalid_request_is_a_usage_error(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["sweep", *data, *arguments, "--out", str(tmp_path / "sweep")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_help_shows_the_options_of_the_components_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--loss", "tc", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--over" in out
    assert "loss tc" in out
