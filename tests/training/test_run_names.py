"""The name and the tags of a run: for people, and without any influence on the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import vaekit
from vaekit.cli import main
from vaekit.errors import SpecError
from vaekit.specs.models import plain_spec
from vaekit.specs.options import build_spec
from vaekit.store.folder import RunFolder

NAMED = {"name": 'β=4 no? / "π"', "tag": ("ablation", "paper 2")}


def options(images: Path, **more: Any) -> dict[str, Any]:
    networks = {"encoder.hidden": (8,), "decoder.hidden": (8,), "latent_dim": 2}
    fixed = {"batch_size": 16, "epochs": 1, "threads": 1, "device": "cpu", "pictures": "none"}
    return {"dataset": "array", "dataset.path": str(images), **networks, **fixed, **more}


def test_names_and_tags_change_no_byte_of_the_model_and_are_shown(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = vaekit.train(**options(images), out=tmp_path / "plain")
    run = vaekit.train(**options(images), **NAMED, out=tmp_path / "named")
    assert plain.folder.model.read_bytes() == run.folder.model.read_bytes()
    assert plain.folder.best.read_bytes() == run.folder.best.read_bytes()
    assert plain.evaluation() == run.evaluation()
    again = vaekit.Run(run.path)
    assert (again.name, again.tags) == (NAMED["name"], NAMED["tag"])
    assert (plain.name, plain.tags) == ("plain", ())
    assert main(["report", str(run.path)]) == 0
    page = (run.path / "report.html").read_text("utf-8")
    assert "<title>β=4 no? / &quot;π&quot;: a vaekit run" in page
    assert "tags: ablation, paper 2" in page
    capsys.readouterr()
    given = ["compare", str(plain.path), str(run.path), "--num", "2", "--out", str(tmp_path / "a.png")]
    assert main(given) == 0
    titles, first, second = capsys.readouterr().out.splitlines()[:3]
    assert titles.split()[-1] == "tags"
    assert first.startswith("plain ")
    assert second.startswith(f"{NAMED['name']} ")
    assert second.endswith("ablation, paper 2")
    assert main([*given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[NAMED["name"]]["tags"] == ["ablation", "paper 2"]


def test_a_run_takes_another_name_when_it_is_resumed(images: Path, tmp_path: Path) -> None:
    run = vaekit.train(**options(images), **NAMED, out=tmp_path / "run")
    run.folder.evaluation.unlink()
    text = run.folder.spec.read_text("utf-8")
    run.folder.spec.write_text(text.replace("ablation", "baseline"), "utf-8")
    assert vaekit.resume(run.path).tags == ("baseline", "paper 2")


def test_a_new_folder_has_the_name_of_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [RunFolder.create(build_spec({}, {"name": name})).path.name for name in ("a/b c", "none")]
    assert names == ["0001-a_b_c", "0002-digits-mlp"]


def test_tags_may_be_repeated_or_listed(images: Path, tmp_path: Path) -> None:
    given = [
        "train",
        "--dataset",
        "array",
        "--dataset.path",
        str(images),
        "--epochs",
        "1",
        "--pictures",
        "none",
        "--tag",
        "a,b",
        "--tag",
        "c",
        "--tag",
        "a",
        "--quiet",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(given) == 0
    assert vaekit.Run(tmp_path / "run").tags == ("a", "b", "c")
    assert build_spec({"train": {"tag": "a, b"}}, {}).train.tag == ("a", "b")
    spec = build_spec({}, {"tag": ["a"], "name": "x"})
    assert build_spec(plain_spec(spec), {}) == spec
    assert build_spec(plain_spec(spec), {"name": "none"}).train.name is None


@pytest.mark.parametrize("given", [{"name": ""}, {"name": "a\nb"}, {"tag": "a,,b"}, {"tag": "x" * 65}, {"tag": (1,)}])
def test_what_is_no_label_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"name: must be|tag.*: must be|tag.*: Input should be a valid string"):
        build_spec({}, given)


def test_models_of_a_stack_may_have_names_of_their_own(images: Path, tmp_path: Path) -> None:
    runs = vaekit.sweep(over={"name": ("one", "two")}, stack="on", out=tmp_path / "sweep", **options(images))
    assert [run.name for run in runs] == ["one", "two"]
    groups = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["groups"]
    assert [group["numbers"] for group in groups] == [[0, 1]]
