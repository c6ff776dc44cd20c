"""Runs at a glance: what `vaekit info` and `vaekit runs` tell, read without torch."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import yaml
from small import fitting_loss, fitting_posterior, fitting_prior, small_parts

import vaekit
from vaekit import roles
from vaekit.cli import main
from vaekit.errors import CheckpointError, SpecError, UsageError
from vaekit.files import lines_from_end
from vaekit.run import Run
from vaekit.specs.models import dump_spec
from vaekit.specs.options import build_spec
from vaekit.specs.outline import read_settings, settings_of
from vaekit.specs.text import flat
from vaekit.store.folder import RunFolder
from vaekit.store.overview import overview
from vaekit.store.summary import Filter, Summary, choose, find_runs

MODEL_ROLES = ("encoder", "decoder", "posterior", "prior", "likelihood", "condition", "loss")


# Specs, read fast


@pytest.mark.parametrize("role", MODEL_ROLES)
def test_the_settings_of_every_component_are_those_of_its_yaml(role: str) -> None:
    registry = next(each for each in roles.SPEC_REGISTRIES if each.role == role)
    for kind in registry.kinds():
        chosen = {"encoder": "mlp", "decoder": "mlp", "posterior": fitting_posterior(role, kind), role: kind}
        chosen |= fitting_prior(role, kind) | fitting_loss(role, kind)
        text = dump_spec(build_spec({}, small_parts(chosen)))
        assert settings_of(text) == flat(yaml.safe_load(text))


TEXTS = ["a: b", "it's", "'", "12", "-", "- a", "1e5", "0x1f", "yes", "~", "null", "a #b", "#a", "猫", "\x85", "1:30", " "]


@pytest.mark.parametrize("text", [*TEXTS, "x" * 300])
def test_any_text_in_a_spec_is_read_as_yaml_reads_it(text: str, tmp_path: Path) -> None:
    spec = build_spec({}, {"dataset": "array", "dataset.path": text, "init": text})
    (tmp_path / "spec.yaml").write_text(dump_spec(spec), "utf-8")
    settings = read_settings(tmp_path / "spec.yaml")
    assert settings == flat(yaml.safe_load(dump_spec(spec)))
    assert settings["data.dataset.path"] == text


@pytest.mark.parametrize(
    "text",
    [
        "model: {encoder: {kind: mlp, hidden: [512, 256]}}\ntrain: {epochs: 3}",
        "train:\n    epochs:   3   # three\n    lr: 1_000.5\n\nmodel:\n    loss:\n        - kind: kl\n        - kind: tc",
        "train:\n  note: a text\n    of two lines\n  other: 'a\n    b'\n  block: |\n    x: 1\n  on: yes",
        '{"train": {"epochs": 3, "lr_milestones": []}}',
        *(f"train:\n  epochs: 3\n  other: {text}" for text in ("yes", "0x1f", "1_0", "1:30", "~", ".5", "2026-11-27", "[1]")),
        'train:\n  epochs: 0x1f\n  text: "a\\tb"\n  nothing: ~\n  empty: []\n  nested:\n  - - 1\n    - 2',
    ],
)
def test_specs_in_other_forms_are_read_as_yaml(text: str, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(text)
    assert read_settings(tmp_path / "spec.yaml") == flat(yaml.safe_load(text))
    with pytest.raises((AttributeError, LookupError, ValueError)):
        settings_of(text)


def test_a_missing_spec_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot read the spec"):
        read_settings(tmp_path / "spec.yaml")


@pytest.mark.parametrize("registry", roles.SPEC_REGISTRIES, ids=lambda registry: registry.role)
def test_defaults_read_from_sources_are_those_of_the_schema(registry: Any) -> None:
    for kind in registry.kinds():
        if registry.origin(kind).distribution != "vaekit":
            continue
        read, fields = registry.literal_defaults(kind), registry.spec(kind).model_fields
        unread = {name for name, field in fields.items() if name not in read and not field.is_required()} - {"kind"}
        assert read == {name: fields[name].default for name in read}
        assert unread <= {"capacity", "discrete_capacity"}  # schedules, made by a function


# A folder of runs


@pytest.fixture
def runs(labelled_run: Path, tmp_path: Path) -> Path:
    """Runs ``a`` to ``d`` that differ in a few settings and numbers, and what is none of them."""

    def add(name: str, change: Callable[[dict[str, Any]], None], *, epochs: int = 3, elbo: float | None = None) -> None:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        spec = yaml.safe_load((labelled_run / "spec.yaml").read_text())
        change(spec)
        (folder / "spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
        lines = (labelled_run / "metrics.jsonl").read_text().splitlines(keepends=True)
        (folder / "metrics.jsonl").write_text("".join(lines[:epochs]))
        if elbo is not None:
            evaluation = json.loads((labelled_run / "evaluation.json").read_text())
            (folder / "evaluation.json").write_text(
                json.dumps({**evaluation, "elbo": elbo, "elbo_is": "lower bound of log p(x)"})
            )
        order = 1_700_000_000 + ord(folder.name)
        os.utime(folder / "metrics.jsonl", (order, order))

    add("a", lambda spec: spec["train"].update(lr=0.01, name="base line", tag=["old", "slow"]), elbo=-90.0)
    add("b", lambda spec: spec["model"].update(loss=[{"kind": "beta", "beta": 4.0}, {"kind": "tc", "beta": 2.0}]), elbo=-80.5)
    add("c", lambda spec: spec["data"]["dataset"].update(kind="folder"), epochs=1)
    add("sweep/d", lambda spec: spec["model"]["encoder"].update(hidden=[256, 64]), elbo=-100.0)
    (tmp_path / "runs" / "sweep" / "sweep.json").write_text("{}")
    (tmp_path / "runs" / "notes").mkdir()
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "spec.yaml").write_text("model: [")
    shutil.copytree(tmp_path / "runs" / "a", tmp_path / "runs" / "damaged")
    (tmp_path / "runs" / "damaged" / "evaluation.json").write_text("{")
    return tmp_path / "runs"


def names(chosen: list[Summary]) -> str:
    return "".join(run.folder.path.name for run in chosen)


def test_runs_are_found_and_what_is_none_is_named(runs: Path) -> None:
    found, skipped = find_runs(runs)
    assert names(found) == "abcd"
    assert {path.name for path in skipped} == {"notes", "broken", "damaged"}
    assert skipped[runs / "notes"] == "is not a run folder: a folder without spec.yaml"
    assert skipped[runs / "broken"].startswith("spec.yaml is not valid YAML: while parsing")
    assert skipped[runs / "damaged"].startswith("is damaged: json.decoder.JSONDecodeError")
    with pytest.raises(CheckpointError, match="is not a folder"):
        find_runs(runs / "nothing")


def test_a_row_tells_what_the_run_itself_tells(labelled_run: Path) -> None:
    run, row = Run(labelled_run), Summary.read(RunFolder(labelled_run)).row
    evaluation = run.evaluation()
    assert evaluation is not None
    best = [record for record in run.metrics() if record["best"]][-1]
    assert row["elbo"] == evaluation["elbo"]
    assert row["validation_elbo"] == best["validation_elbo"]
    assert (row["epoch"], row["epochs"], row["state"]) == (3, 3, "finished")
    model = run.spec.model
    assert [row[part] for part in ("encoder", "prior", "latent_dim")] == [model.encoder.kind, model.prior.kind, model.latent_dim]
    assert row["loss"] == [loss.kind for loss in model.loss]


def test_the_best_epoch_need_not_be_the_last_and_a_cut_line_is_left_out(labelled_run: Path, tmp_path: Path) -> None:
    folder = RunFolder(shutil.copytree(labelled_run, tmp_path / "run"))
    records = [{"epoch": 1, "validation_elbo": -3.5, "best": True}, {"epoch": 2, "validation_elbo": -4.5, "best": False}]
    folder.metrics.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"epoch": 3, "valid')
    summary = Summary.read(folder)
    assert (summary.epoch, summary.row["validation_elbo"], summary.state) == (2, -3.5, "interrupted")
    folder.metrics.write_text("")
    assert (Summary.read(folder).epoch, Summary.read(folder).row["validation_elbo"]) == (0, None)


@pytest.mark.parametrize(
    ("limits", "evaluated", "state"),
    [
        ({"epochs": 3}, 1, "finished"),
        ({"epochs": 3}, 2, "interrupted"),
        ({"epochs": 9}, 1, "interrupted"),
        ({"epochs": 9, "patience": 2}, 1, "finished"),
        ({"epochs": 9, "patience": 3}, 1, "interrupted"),
    ],
)
def test_a_run_is_finished_when_it_is_over_and_its_best_epoch_is_evaluated(
    labelled_run: Path, tmp_path: Path, limits: dict[str, int], evaluated: int, state: str
) -> None:
    folder = RunFolder(shutil.copytree(labelled_run, tmp_path / "run"))
    spec = yaml.safe_load(folder.spec.read_text())
    spec["train"].update(limits)
    folder.spec.write_text(yaml.safe_dump(spec, sort_keys=False))
    folder.metrics.write_text("".join(json.dumps({"epoch": epoch, "best": epoch == 1}) + "\n" for epoch in (1, 2, 3)))
    evaluation = json.loads(folder.evaluation.read_text())
    folder.evaluation.write_text(json.dumps({**evaluation, "epoch": evaluated}))
    assert Summary.read(folder).state == state


def test_a_run_that_is_being_trained_is_told_from_one_that_was_killed(runs: Path) -> None:
    folder, other = RunFolder(runs / "c"), RunFolder(runs / "c")
    (runs / "c" / "checkpoints").mkdir()
    assert Summary.read(other).state == "interrupted"
    folder.acquire()
    assert Summary.read(other).state == "training"
    folder.lock.release()
    Path(folder.lock.lock_file).touch()  # as after a kill
    assert Summary.read(other).state == "interrupted"
    folder.acquire()
    folder.release()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("dataset=folder", "c"),
        ("dataset!=folder", "abd"),
        ("elbo>-95", "ab"),
        ("elbo<=-90", "ad"),
        ("elbo!=-90", "bcd"),
        ("elbo=none", "c"),
        ("lr=1e-2", "a"),
        ("train.lr<0.01", "bcd"),
        ("loss=tc", "b"),
        ("loss.beta=4", "b"),
        ("beta=2", "b"),
        ("beta!=2", ""),
        ("hidden=64", "d"),
        ("encoder.hidden>=256", "d"),
        ("decoder.hidden>=256", ""),
        ("latent-dim=3", "abcd"),
        ("state=finished", "abd"),
        ("epoch<3", "c"),
        ("tags=slow", "a"),
        ("name=base*", "a"),
        ("active_units>=0", "abd"),
    ],
)
def test_conditions(runs: Path, given: str, expected: str) -> None:
    assert names(choose(find_runs(runs)[0], filters=[Filter.read(given)])) == expected


def test_several_conditions_hold_together(runs: Path) -> None:
    conditions = [Filter.read("state=finished"), Filter.read("elbo<-85")]
    assert names(choose(find_runs(runs)[0], filters=conditions, sort="elbo")) == "ad"


@pytest.mark.parametrize(
    ("sort", "expected"),
    [("date", "abdc"), ("elbo", "badc"), ("elbo:min", "dabc"), ("epoch", "cabd"), ("lr:max", "abcd"), ("encoder.hidden", "abcd")],
)
def test_orders(runs: Path, sort: str, expected: str) -> None:
    os.utime(runs / "c" / "metrics.jsonl", (1_800_000_000, 1_800_000_000))
    chosen = names(choose(find_runs(runs)[0], sort=sort))
    assert chosen == expected


@pytest.mark.parametrize("given", ["", "elbo", "elbo>high", "=1", "elbo=>1"])
def test_what_is_no_condition(given: str) -> None:
    if given == "elbo=>1":
        assert Filter.read(given).value == ">1"
        return
    with pytest.raises(UsageError):
        Filter.read(given)


def test_keys_that_no_run_has(runs: Path) -> None:
    for options in ({"sort": "elob"}, {"filters": [Filter.read("elob>1")]}):
        with pytest.raises(UsageError, match="no run has 'elob'"):
            choose(find_runs(runs)[0], **options)  # type: ignore[arg-type] # either fits


def test_the_table(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(runs), "--sort", "elbo"]) == 0
    out, err = capsys.readouterr()
    head, *rows = out.splitlines()
    assert head.split()[:6] == ["run", "name", "dataset", "encoder", "decoder", "loss"]
    assert [row.split()[0] for row in rows[:4]] == ["b", "a", "sweep/d", "c"]
    assert "base line" in rows[1]
    assert "beta+tc" in rows[0]
    assert "1/3" in rows[3]
    assert rows[-1] == "4 of 4 runs"
    assert err.count(f"skipped {runs}") == 3
    assert main(["runs", str(runs), "--filter", "elbo>-85", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["elbo"] == -80.5
    assert main(["runs", str(runs / "sweep"), "--filter", "epoch>99"]) == 0
    assert "0 of 1 runs" in capsys.readouterr().out


def test_elbos_that_are_no_bounds_are_marked(labelled_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(labelled_run.parent), "--filter", "run=*run"]) == 0
    out = capsys.readouterr().out
    assert "* not a lower bound of log p(x)" in out
    assert f"{Run(labelled_run).evaluation()['elbo']:,.2f}*" in out  # type: ignore[index] # it has been evaluated


# One run


def test_an_overview_counts_weights_and_lists_options_that_are_not_at_their_defaults(labelled_run: Path) -> None:
    run = Run(labelled_run)
    about = overview(run.folder)
    parts = {part["role"]: part for part in about["parts"]}
    vae = run.vae()
    for part in ("encoder", "decoder"):
        assert parts[part]["weights"] == sum(math.prod(tensor.shape) for tensor in vae.get_submodule(part).state_dict().values())
    assert about["weights"] == sum(tensor.numel() for tensor in vae.state_dict().values())
    assert parts["encoder"]["options"] == {"hidden": [16]}
    assert parts["posterior"]["options"] == {}
    assert "condition" not in parts
    assert (about["data_shape"], about["value_range"], about["best_epoch"]) == ([1, 8, 6], [0.0, 1.0], run.header.state["epoch"])
    assert about["class_names"] == ["left", "middle", "right/far"]
    assert about["files"]["spec.yaml"] == (labelled_run / "spec.yaml").stat().st_size
    samples = [file for file in (labelled_run / "samples").rglob("*") if file.is_file()]  # other tests may have added folders
    assert about["files"]["samples"] == sum(file.stat().st_size for file in samples)
    assert about["versions"]["vaekit"] == vaekit.__version__


def test_info_of_a_run(labelled_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(labelled_run)]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) <= 24
    for text in ("array, 1×8×6 in [0, 1]; 3 classes", "mlp(hidden=16)", "finished, 3 of 3 epochs", "-(CE+KL)", "vaekit 0.1.0"):
        assert text in out
    assert main(["info", str(labelled_run), "--json"]) == 0
    about = {"source": str(labelled_run), **overview(RunFolder(labelled_run))}
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(about))


def test_info_of_a_run_without_a_model(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(runs / "c")]) == 0
    out = capsys.readouterr().out
    assert "interrupted, 1 of 3 epochs" in out
    assert "validation" in out
    assert main(["info", str(runs / "notes")]) == 1
    assert main(["info", str(runs / "broken")]) == 2
    assert "is not valid YAML" in capsys.readouterr().err


def test_info_of_a_damaged_model(labelled_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(labelled_run, tmp_path / "run"))
    (folder / "model.safetensors").write_bytes(b"\xff" * 20)
    assert main(["info", str(folder)]) == 1
    assert "is damaged, or was not written by vaekit" in capsys.readouterr().err


def test_only_the_end_of_the_metrics_is_read(labelled_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(shutil.copytree(labelled_run, tmp_path / "run"))
    last = run.metrics()[-1]
    lines = [json.dumps(last | {"epoch": 1000 + i, "best": i == 0}).encode() + b"\n" for i in range(3)]
    run.folder.metrics.write_bytes(b"not a record\n" * 100_000 + b"".join(lines))
    used: list[bytes] = []

    def counted(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
        for place, line in lines_from_end(file):
            used.append(line)
            yield place, line

    monkeypatch.setattr("vaekit.store.summary.lines_from_end", counted)
    summary = Summary.read(run.folder)
    assert (summary.last["epoch"], summary.best["epoch"], len(used)) == (1002, 1000, 3)


@pytest.mark.parametrize("end", ["", "\n", '\n{"epoch": 5, "tr', '\n{"epoch": 5}\n{"epoch": 6}\n'])
def test_records_after_a_checkpoint_are_cut_off_and_those_before_are_left_as_they_are(tmp_path: Path, end: str) -> None:
    folder = RunFolder(tmp_path)
    kept = '{"epoch":1}\nnot a record\n{"epoch" : 3}\n{"epoch": 4}'
    folder.metrics.write_text(kept + end)
    before = folder.metrics.stat().st_ino
    folder.cut_metrics(4)
    assert folder.metrics.read_text() == kept + "\n"
    assert folder.metrics.stat().st_ino == before
    folder.append_metrics({"epoch": 5})
    folder.cut_metrics(1)
    assert folder.metrics.read_text() == '{"epoch":1}\n'
    folder.cut_metrics(0)
    assert not folder.metrics.read_bytes()
