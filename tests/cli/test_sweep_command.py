"""`vaekit sweep` at the command line."""

from __future__ import annotations

import json
from pathlib import Path

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


def test_a_sweep_prints_a_row_a_model_and_leaves_a_folder_each(
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


def test_json_is_the_summary(data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--json", *data, *TINY, "--over", "seed=0,1", "--out", str(tmp_path / "sweep")]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary == json.loads((tmp_path / "sweep" / "sweep.json").read_text("utf-8"))
    assert [row["options"] for row in summary["runs"]] == [{"seed": "0"}, {"seed": "1"}]
    assert all(np.isfinite(row["test"]["loss"]) for row in summary["runs"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to sweep over"),
        (["--over", "beta"], "no option with values"),
        (["--over", "betta=1,2"], "there is no option betta"),
        (["--over", "seed=1,2", "--over", "seed=3"], "varied twice"),
        (["--over", "seed=1,2", "--stack", "maybe"], "no such way to stack"),
        (["--over", "seed=1,2", "--sed", "3"], "there is no option sed"),
        (["--over", "epochs=1,2", "--stack", "on", "--epochs", "1"], "set and varied"),
    ],
)
def test_a_wrong_request_is_a_usage_error(
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
