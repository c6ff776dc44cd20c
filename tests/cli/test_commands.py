from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vaekit import roles
from vaekit.cli import main
from vaekit.cli.components import describe
from vaekit.run import Run
from vaekit.specs.models import dump_spec
from vaekit.specs.resolve import resolve
from vaekit.training.trainer import Trainer

Cli = Callable[..., tuple[int, str, str]]
TINY = ["--encoder.hidden", "16", "--decoder.hidden", "16", "--latent-dim", "2", "--batch-size", "16", "--epochs", "1"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "images.npy"
    np.save(file, np.random.default_rng(0).integers(0, 256, (64, 8, 8), dtype=np.uint8))
    return file


@pytest.fixture(scope="module")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", "--quiet", "--dataset", "array", "--path", str(images), *TINY, "--out", str(run)]) == 0
    return run


# train


def test_train_prints_a_line_per_epoch_and_the_next_steps(cli: Cli, images: Path, tmp_path: Path) -> None:
    code, out, err = cli("train", "--dataset", "array", "--dataset.path", images, *TINY, "--epochs=2", "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    assert out.count("\nepoch ") == 2
    assert "ELBO" in out
    assert "lower bound of the log density" in out
    for command in ("sample", "reconstruct", "evaluate"):
        assert f"vaekit {command} {tmp_path / 'run'}" in out


def test_json_output_has_one_object_per_line(cli: Cli, images: Path, tmp_path: Path) -> None:
    code, out, _ = cli(
        "train", "--json", "--loss", "bce", "--dataset", "array", "--path", images, *TINY, "--out", tmp_path / "run"
    )
    events = [json.loads(line) for line in out.splitlines()]
    assert (code, [event["event"] for event in events]) == (0, ["start", "epoch", "end"])
    assert events[0]["run"] == str(tmp_path / "run")
    assert "cross-entropy" in events[0]["elbo"]


def test_quiet_prints_nothing(cli: Cli, images: Path, tmp_path: Path) -> None:
    assert cli("train", "--quiet", "--dataset=array", f"--path={images}", *TINY, "--out", tmp_path / "run") == (0, "", "")


def test_ctrl_c_after_the_last_epoch_reports_a_complete_run(
    cli: Cli, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = Trainer.finish

    def late(self: Trainer) -> dict[str, Any]:
        results = finish(self)
        os.kill(os.getpid(), signal.SIGINT)
        return results

    monkeypatch.setattr(Trainer, "finish", late)
    run = tmp_path / "run"
    code, _, err = cli("train", "--dataset", "array", "--dataset.path", images, *TINY, "--out", run)
    assert (code, err) == (130, f"interrupted; {run} is complete\n")


def test_flags_override_the_spec_file_and_may_precede_it(cli: Cli, trained: Path, tmp_path: Path) -> None:
    code, _, err = cli("train", "--quiet", "--latent_dim", 3, trained / "spec.yaml", "--no-learned", "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    before, after = (resolve(_read(run / "spec.yaml")) for run in (trained, tmp_path / "run"))
    assert (after.model.latent_dim, after.model.likelihood.learned) == (3, False)
    assert (after.model.encoder, after.data, after.train) == (before.model.encoder, before.data, before.train)


def _read(path: Path) -> Any:
    import yaml

    return yaml.safe_load(path.read_text("utf-8"))


def test_help_shows_the_options_of_the_chosen_components(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = cli("train", "--encoder", "cnn", "--loss", "tc", "--help")
    assert code == 0
    for part in (
        "encoder cnn",
        "--encoder.channels",
        "--decoder.channels",
        "loss tc",
        "--estimator",
        "One of stratified, weighted.",
        "--lr",
    ):
        assert part in out
    assert "--free-bits" not in out


@pytest.mark.parametrize("components", ["", "--encoder cnn --decoder bilinear --dataset folder --loss tc --likelihood gaussian"])
def test_help_fits_a_narrow_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch, components: str) -> None:
    from vaekit.cli.options import is_switch, read_options
    from vaekit.specs.resolve import ROLES

    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = cli("train", *components.split(), "--help")
    assert code == 0
    words = set(out.split())
    for option in read_options(components.split(), own=())[1].options:
        name = min(option.names, key=len).replace("_", "-")
        assert {f"--{name}", f"--no-{name}"} & words == (
            {f"--{name}", f"--no-{name}"} if is_switch(option.type) else {f"--{name}"}
        )
    for kind in ROLES["dataset"].kinds():
        assert {kind, f"{kind},", f"{kind}."} & words


def test_help_shows_the_values_of_the_spec_file(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "spec.yaml").write_text("model: {loss: {kind: beta, beta: 7.5}}\n")
    code, out, _ = cli("train", tmp_path / "spec.yaml", "--help")
    assert code == 0
    assert "Weight of the KL. [default: 7.5]" in out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("--hidden 3", ["--encoder.hidden or --decoder.hidden"]),
        ("--bta 3 --loss beta", ["unknown option bta", "--beta"]),
        ("--no-epochs", ["unknown option no_epochs"]),
        ("--encoder cnm", ["'cnm'", "'cnn'"]),
        ("--encoder", ["--encoder needs a value"]),
        ("--latent-dim --epochs 3", ["--latent-dim needs a value"]),
        ("--loss gaussian --learned maybe", ["--learned is a switch", "given:    maybe", "--no-learned"]),
        ("--loss gaussian --likelihood.learned=maybe", ["--likelihood.learned is a switch", "--no-likelihood.learned"]),
        ("--loss gaussian --no-learned true", ["--no-learned is a switch"]),
        ("--latent-dim 0", ["latent_dim: "]),
        ("--loss beta --beta x", ["loss.beta: "]),
        ("absent.yaml", ["cannot read the spec absent.yaml"]),
        ("--loss iwaee", ["a loss (", "a likelihood ("]),
        ("--posterior delta --loss beta", ["log_prob", "--posterior gaussian"]),
        ("--loss beta --loss tc", ["'beta' and 'tc' both cover"]),
    ],
)
def test_usage_errors_are_explained_and_exit_with_2(cli: Cli, arguments: str, parts: list[str], tmp_path: Path) -> None:
    code, out, err = cli("train", *arguments.split(), f"--out={tmp_path / 'run'}")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert [part for part in parts if part not in err] == []
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flag", "learned"),
    [
        ("--likelihood.learned false", False),
        ("--likelihood.learned=false", False),
        ("--learned False", False),
        ("--no-likelihood.learned", False),
        ("--learned true", True),
        ("--learned=true", True),
        ("--likelihood.learned", True),
    ],
)
def test_a_switch_may_be_given_a_boolean(cli: Cli, images: Path, tmp_path: Path, flag: str, learned: bool) -> None:
    spec, run = tmp_path / "spec.yaml", tmp_path / "run"
    spec.write_text("train: {pictures: none}")
    given = ["--dataset", "array", "--dataset.path", images, *TINY, "--loss", "gaussian", "--out", run]
    assert cli("train", "--quiet", *given, *flag.split(), spec) == (0, "", "")
    assert Run(run).spec.model.likelihood.learned is learned


def test_switches_of_pictures_and_exporters_may_be_given_a_boolean(cli: Cli, trained: Path, tmp_path: Path) -> None:
    code, out, _ = cli("sample", trained, "--num", 2, "--separate", "false", "--out", tmp_path / "grid.png")
    assert (code, out.strip()) == (0, str(tmp_path / "grid.png"))
    code, out, _ = cli("export", trained, "--fp16", "true", "--onnx", tmp_path / "half.onnx")
    assert (code, "half" in out) == (0, True)
    assert cli("export", trained, "--fp16=false", "--onnx", tmp_path / "whole.onnx")[0] == 0
    assert (tmp_path / "half.onnx").stat().st_size < (tmp_path / "whole.onnx").stat().st_size


def test_debug_raises(images: Path) -> None:
    from vaekit.errors import UsageError

    with pytest.raises(UsageError):
        main(["train", "--epoch", "3", "--debug"])


def test_missing_data_exits_with_1(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("train", "--dataset", "array", "--path", tmp_path / "absent.npy", "--out", tmp_path / "run")
    assert code == 1
    assert "absent.npy" in err


# Commands on a run


def test_sample_writes_a_grid_and_prints_its_path(cli: Cli, trained: Path, tmp_path: Path) -> None:
    code, out, _ = cli("sample", trained, "--num", 4, "--out", tmp_path / "new" / "grid.png")
    assert (code, out.strip()) == (0, str(tmp_path / "new" / "grid.png"))
    with Image.open(tmp_path / "new" / "grid.png") as image:
        assert image.format == "PNG"


def test_reconstruct_takes_files_and_folders(cli: Cli, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name in ("one.png", "pictures/two.png"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name)
    code, out, err = cli("reconstruct", trained, tmp_path / "one.png", tmp_path / "pictures", "--out", tmp_path / "grid.png")
    assert (code, out.strip(), err) == (0, str(tmp_path / "grid.png"), "")


def test_reconstruct_without_images_is_a_usage_error(cli: Cli, trained: Path) -> None:
    code, _, err = cli("reconstruct", trained)
    assert code == 2
    assert "no images" in err


def test_evaluate_prints_the_metrics_that_it_writes(cli: Cli, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, run := tmp_path / "run")
    code, out, _ = cli("evaluate", run, "--samples", 5, "--json")
    results = json.loads(out)
    assert code == 0
    assert results == json.loads((run / "evaluation.json").read_text())
    assert {"elbo", "kl", "reconstruction", "active_units", "log_likelihood", "standard_error"} <= results.keys()
    code, out, _ = cli("evaluate", run, "--split", "validation")
    assert out.startswith("validation, 6 images")
    assert cli("evaluate", run, "--split", "tests")[0] == 2


def test_log_likelihood_in_half_precision_is_near_that_in_single(cli: Cli, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, run := tmp_path / "run")
    values = {}
    for precision in ("fp32", "bf16"):
        code, out, err = cli("evaluate", run, "--samples", 50, "--precision", precision, "--json")
        assert code == 0, err
        values[precision] = json.loads(out)["log_likelihood"]
    assert values["fp32"] != values["bf16"]
    assert values["bf16"] == pytest.approx(values["fp32"], rel=0.01)
    code, _, err = cli("evaluate", run, "--precision", "fp64")
    assert code == 2
    assert "fp32 or bf16" in err


def test_run_defaults_to_the_latest(cli: Cli, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = cli("sample")
    assert code == 1
    assert "no run found under runs/" in err
    shutil.copytree(trained, tmp_path / "runs" / "0001-x")
    assert cli("sample")[:2] == (0, "runs/0001-x/samples/seed-0.png\n")


def test_resume_refuses_complete_runs_and_other_folders(cli: Cli, trained: Path, tmp_path: Path) -> None:
    code, _, err = cli("resume", trained)
    assert code == 2
    assert "is complete" in err
    code, _, err = cli("resume", tmp_path)
    assert code == 1
    assert "is not a run folder" in err


# components, schema


def test_components_list_names_every_component(cli: Cli) -> None:
    code, out, _ = cli("components", "list")
    assert code == 0
    listed = [line.split()[0] for line in out.splitlines()]
    for components in roles.REGISTRIES:
        assert {components.plural, *components.kinds()} <= set(listed)


def test_components_show_has_options_reference_and_origin(cli: Cli) -> None:
    code, out, _ = cli("components", "show", "loss:beta")
    assert code == 0
    for part in (
        "loss beta",
        "vaekit",
        "--loss.free-bits float",
        "default 4",
        "float|schedule",
        "cyclic(start, end, period",
        "Higgins",
    ):
        assert part in out
    assert "Args:" not in out


def test_components_show_shows_every_role_of_a_name(cli: Cli) -> None:
    _, out, _ = cli("components", "show", "gaussian")
    assert "posterior gaussian" in out
    assert "likelihood gaussian" in out
    code, _, err = cli("components", "show", "gausian")
    assert code == 2
    assert "gaussian" in err


def test_every_component_can_be_shown(cli: Cli) -> None:
    for components in roles.REGISTRIES:
        for kind in components.kinds():
            assert cli("components", "show", f"{components.role}:{kind}")[0] == 0


def test_schema_takes_real_specs_and_refuses_others(cli: Cli, trained: Path) -> None:
    code, out, _ = cli("schema")
    schema = json.loads(out)
    assert code == 0
    resolved = _read(trained / "spec.yaml")
    assert _fits(resolved, schema, schema)
    assert _fits({"model": {"loss": "mse", "encoder": {"kind": "cnn", "channels": [8]}}}, schema, schema)
    assert _fits({"model": {"loss": ["beta", {"kind": "gaussian", "sigma": 1}]}, "train": {"pictures": [1]}}, schema, schema)
    for wrong in ({"modle": {}}, {"model": {"encoder": "cnm"}}, {"data": {"dataset": {"kind": "folder"}}}, {"train": {"lr": 0}}):
        assert not _fits(wrong, schema, schema)
    assert dump_spec(resolve(resolved))


def _fits(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """Check the part of JSON Schema that pydantic writes here."""
    if "$ref" in schema:
        return _fits(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        return any(_fits(value, option, root) for option in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return value in schema.get("enum", [schema.get("const")])
    types = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": int | float,
        "boolean": bool,
        "null": type(None),
    }
    if not isinstance(value, types[schema["type"]]):
        return False
    if schema["type"] == "object":
        properties = schema["properties"]
        known = value.keys() <= properties.keys() and set(schema.get("required", ())) <= value.keys()
        return known and all(_fits(item, properties[name], root) for name, item in value.items())
    if schema["type"] == "array" and "items" in schema:
        return all(_fits(item, schema["items"], root) for item in value)
    return not ("exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"])


def test_options_are_described_before_references() -> None:
    for registry in roles.REGISTRIES:
        for kind in registry.kinds():
            heads = re.findall(r"^(Options:|No options\.|References:)", describe(registry, kind), re.MULTILINE)
            assert len(heads) <= 2, kind
            assert heads[0] != "References:", kind
