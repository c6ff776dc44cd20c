"""The commands for pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("sample RUN --num 4 --temperature 0.5", "a.png"),
        ("sample RUN --num 4 --separate", "folder"),
        ("reconstruct RUN 0 1", "a.webp"),
        ("interpolate RUN 0 1 --way spherical", "a.png"),
        ("traverse RUN --dims 2,0 --steps 3", "a.png"),
        ("manifold RUN --side 3", "a.png"),
        ("scatter RUN --ellipses", "a.png"),
        ("variations RUN --per-class 2", "folder"),
        ("morph RUN --steps 2", "a.gif"),
        ("report RUN", "a.html"),
    ],
)
def test_each_command_writes_the_printed_path(cli: Cli, labelled_run: Path, tmp_path: Path, command: str, name: str) -> None:
    words = [str(labelled_run) if word == "RUN" else word for word in command.split()]
    code, out, err = cli(*words, "--out", tmp_path / name)
    assert (code, err, out.strip()) == (0, "", str(tmp_path / name))
    assert (tmp_path / name).exists()


def test_compare_shows_runs_and_their_metrics(cli: Cli, labelled_run: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(labelled_run, tmp_path / "other")
    picture = tmp_path / "c.png"
    code, out, _ = cli("compare", labelled_run, tmp_path / "other", "--out", picture)
    assert code == 0
    assert "cross-entropy" in out
    assert picture.is_file()
    code, out, _ = cli("compare", labelled_run, tmp_path / "other", "--out", picture, "--json")
    assert set(json.loads(out)) == {"run", "other"}
    code, _, err = cli("compare", labelled_run, "--out", picture)
    assert code == 2
    assert "nothing to compare" in err


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        ("traverse RUN --dims 1,x", ["by index"]),
        ("traverse RUN --dims 9", ["invalid latents", "from 0 to 2"]),
        ("interpolate RUN 0", ["two images are needed"]),
        ("interpolate RUN 0 100000", ["no such image in the dataset"]),
        ("reconstruct RUN", ["no images were given"]),
        ("sample RUN --out a.tiff", ["unsupported"]),
        ("manifold RUN --dims 0,1,2", ["one or two latents"]),
    ],
)
def test_mistakes_are_usage_errors(cli: Cli, labelled_run: Path, command: str, parts: list[str]) -> None:
    code, _, err = cli(*(str(labelled_run) if word == "RUN" else word for word in command.split()))
    assert code == 2
    assert all(part in err for part in parts), err


def test_a_run_without_a_checkpoint_is_named(cli: Cli, labelled_run: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "spec.yaml").write_text((labelled_run / "spec.yaml").read_text())
    for command in ("sample", "report", "manifold"):
        code, _, err = cli(command, tmp_path / "run")
        assert code == 1
        assert "model.safetensors" in err
