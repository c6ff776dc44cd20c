"""Files: recorded plugins, other plugin versions, and malicious files."""

from __future__ import annotations

import json
import pickle
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sites import ENCODER, Site

import vaekit
from vaekit import roles
from vaekit.errors import CheckpointError, VaekitError
from vaekit.specs.models import read_spec
from vaekit.specs.resolve import resolve
from vaekit.store.checkpoint import digest_of
from vaekit.training.step import Step

TRAIN = "--dataset array --path x.npy --epochs 1 --batch-size 16 --latent-dim 2 --pictures none --decoder mlp --out run"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A run of a plugin's encoder, 1.2."""
    site = Site(tmp_path_factory.mktemp("site"))
    site.install("vaekit-acme", "vaekit_acme", ENCODER.format(kind="acme", width=8), "encoders: acme = vaekit_acme:Acme")
    np.save(site.folder / "x.npy", np.random.default_rng(0).integers(0, 256, (64, 6, 6), dtype=np.uint8))
    done = site.run("-m", "vaekit", "train", "--quiet", "--encoder", "acme", *TRAIN.split())
    assert done.returncode == 0, done.stderr
    return site


def metadata_of(file: Path) -> dict[str, Any]:
    with safe_open(file, "pt") as opened:
        content: dict[str, Any] = json.loads(opened.metadata()["vaekit-3"])
    return content


def elsewhere(trained: Site, site: Site, source: str, entry_points: str, version: str) -> str:
    """Load the run with another version of the plugin installed; return the output."""
    site.install("vaekit-acme", "vaekit_acme", source, entry_points, version=version)
    code = f"""
import sys, warnings, vaekit
warnings.showwarning = lambda message, *_, **__: print("warning:", message)
try:
    vaekit.load({str(trained.folder / "run")!r})
    print("loaded")
except vaekit.VaekitError as error:
    print(type(error).__name__, error)
"""
    done = site.run("-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_files_record_distribution_and_version_of_each_component(trained: Site) -> None:
    for file in ("model.safetensors", "checkpoints/last.safetensors"):
        components = metadata_of(trained.folder / "run" / file)["versions"]["components"]
        assert components["encoder:acme"] == {"distribution": "vaekit-acme", "version": "1.2"}
        assert components["decoder:mlp"] == {"distribution": "vaekit", "version": vaekit.__version__}


def test_a_run_resumes_evaluates_and_samples_as_with_built_ins(trained: Site) -> None:
    done = trained.vaekit("evaluate run", "sample run --num 4", "resume run")
    assert [result.code for result in done] == [0, 0, 2]  # it is complete
    assert done[0].err == ""


def test_a_missing_plugin_is_named_with_its_version(trained: Site, site: Site) -> None:
    site.install("vaekit-other", "vaekit_other", ENCODER.format(kind="other", width=8), "encoders: other = vaekit_other:Acme")
    (done,) = site.vaekit(f"sample {trained.folder / 'run'}")
    assert done.code == 1
    assert "encoder:acme from vaekit-acme 1.2" in done.err
    assert "pip install vaekit-acme==1.2" in done.err


def test_another_version_whose_weights_fit_is_a_warning(trained: Site, site: Site) -> None:
    said = elsewhere(trained, site, ENCODER.format(kind="acme", width=8), "encoders: acme = vaekit_acme:Acme", "1.3")
    assert "was written with other versions: encoder:acme from vaekit-acme 1.2, now from vaekit-acme 1.3" in said
    assert said.endswith("loaded\n")


def test_another_version_whose_weights_do_not_fit_is_explained_by_name_and_shape(trained: Site, site: Site) -> None:
    said = elsewhere(trained, site, ENCODER.format(kind="acme", width=9), "encoders: acme = vaekit_acme:Acme", "2.0")
    assert "CheckpointError the weights in" in said
    assert "encoder.net.1.weight: (8, 36) in the file, (9, 36) in the model" in said
    assert "encoder:acme from vaekit-acme 1.2, now from vaekit-acme 2.0" in said
    assert "remedy:   pip install vaekit-acme==1.2" in said


def test_another_version_that_lacks_an_option_is_explained(trained: Site, site: Site) -> None:
    source = ENCODER.format(kind="acme", width=8).replace("depth", "levels")
    said = elsewhere(trained, site, source, "encoders: acme = vaekit_acme:Acme", "2.0")
    assert "CheckpointError the spec in" in said
    assert "encoder.depth: unknown option" in said
    assert "pip install vaekit-acme==1.2" in said


def test_components_of_scripts_are_recorded_and_their_absence_explained(trained: Site, site: Site) -> None:
    script = ENCODER.format(kind="mine", width=8) + (
        f"vaekit.train(encoder='mine', decoder='mlp', dataset='array', path={str(trained.folder / 'x.npy')!r}, epochs=1,"
        " batch_size=16, latent_dim=2, pictures='none', out='run')\n"
    )
    (site.folder / "script.py").write_text(script, "utf-8")
    done = site.run("script.py")
    assert done.returncode == 0, done.stderr
    components = metadata_of(site.folder / "run" / "model.safetensors")["versions"]["components"]
    assert components["encoder:mine"] == {"distribution": "__main__", "version": ""}
    with pytest.raises(CheckpointError) as caught:
        vaekit.load(site.folder / "run")
    assert caught.value.given == "encoder:mine from __main__"
    assert caught.value.remedy == "define and register it before loading"


# Files can be read back


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (None, ("vaekit_acme", "")),
        (b"Name: vaekit-acme\nVersion: \xff\xfe\n", ("vaekit_acme", "")),
        (b"\xff\xfe\0\x01", ("vaekit_acme", "")),
        (
            b"Metadata-Version: 2.1\nName: gr\xc3\xb6\xc3\x9fe und so\nVersion: 1.0 \xce\xb2\x1b[31m\n",
            ("größe und so", "1.0 β?[31m"),
        ),
    ],
    ids=["absent", "in another encoding", "binary", "with any character"],
)
def test_a_run_of_a_plugin_with_odd_metadata_can_be_read_again(
    site: Site, metadata: bytes | None, expected: tuple[str, str]
) -> None:
    site.install("vaekit-acme", "vaekit_acme", ENCODER.format(kind="acme", width=8), "encoders: acme = vaekit_acme:Acme")
    file = site.folder / "vaekit_acme-1.2.dist-info" / "METADATA"
    file.unlink() if metadata is None else file.write_bytes(metadata)
    np.save(site.folder / "x.npy", np.random.default_rng(0).integers(0, 256, (64, 6, 6), dtype=np.uint8))
    for done in site.vaekit(f"train --quiet --encoder acme {TRAIN}", "evaluate run", "schema", "plugins"):
        assert (done.code, done.err) == (0, "")
    origin = metadata_of(site.folder / "run" / "model.safetensors")["versions"]["components"]["encoder:acme"]
    assert (origin["distribution"], origin["version"]) == expected


def test_a_run_of_a_script_of_any_name_can_be_read_again(site: Site) -> None:
    (site.folder / "größe.py").write_text(ENCODER.format(kind="acme", width=8), "utf-8")
    np.save(site.folder / "x.npy", np.random.default_rng(0).integers(0, 256, (64, 6, 6), dtype=np.uint8))
    arguments = ["train", "--quiet", "--encoder", "acme", *TRAIN.split()]
    done = site.run("-c", f"import sys, größe; from vaekit.cli import main; sys.exit(main({arguments}))")
    assert (done.returncode, done.stderr) == (0, "")
    assert metadata_of(site.folder / "run" / "model.safetensors")["versions"]["components"]["encoder:acme"] == {
        "distribution": "größe",
        "version": "",
    }


class Odd(vaekit.Backbone):
    """An encoder from a module with an unprintable name."""

    def __init__(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> None:
        super().__init__(in_shape, out_shape)
        self.net = torch.nn.Linear(36, torch.Size(out_shape).numel())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.net(x.flatten(1)).unflatten(1, self.out_shape)
        return y


def test_unreadable_settings_are_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def take(self: Step, *_: object) -> None:
        raise AssertionError("it is not trained")

    monkeypatch.setattr(Odd, "__module__", "a\nmodule")
    monkeypatch.setattr(Step, "take", take)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (64, 6, 6), dtype=np.uint8))
    options = {"dataset": "array", "path": str(tmp_path / "x.npy"), "decoder": "mlp", "batch_size": 16, "device": "cpu"}
    with roles.encoders.temporarily(odd=Odd), pytest.raises(VaekitError, match="a checkpoint of this run could not be read"):
        vaekit.train(encoder="odd", compile="off", out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


# Malicious files


@pytest.fixture
def forged(trained: Site, tmp_path: Path) -> Any:
    """Return a function that writes a model file with altered metadata."""

    def forge(alter: Any) -> Path:
        source = trained.folder / "run" / "model.safetensors"
        metadata = metadata_of(source)
        metadata["spec"]["model"]["encoder"] = {"kind": "mlp"}
        del metadata["versions"]["components"]["encoder:acme"]
        altered = alter(metadata)
        path = tmp_path / "forged.safetensors"
        tensors = load_file(source)
        if not isinstance(altered, str):  # a forger would forge the digest too
            del metadata["digest"]
            altered = json.dumps({**metadata, "digest": digest_of(json.loads(json.dumps(metadata)), tensors)})
        save_file(tensors, path, {"vaekit-3": altered})
        return path

    return forge


PATHS = (
    "os.system",
    "os:system",
    "../x",
    "../../canary",
    "vaekit.encoders:x",
    "canary",
    "canary:Acme",
    "/etc/passwd",
    "",
    "__init__",
)


@pytest.mark.parametrize("kind", [*PATHS, "a\0b"])
def test_a_spec_cannot_name_code(forged: Any, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "canary.py").write_text("open('imported', 'w')\n" + ENCODER.format(kind="canary", width=8), "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="uses components that are not available: unknown encoder"):
        vaekit.load(forged(lambda metadata: metadata["spec"]["model"].update(encoder={"kind": kind})))
    (tmp_path / "spec.yaml").write_text(f"model: {{encoder: {json.dumps(kind)}}}\n", "utf-8")
    with pytest.raises(VaekitError):
        resolve(read_spec(tmp_path / "spec.yaml"))
    assert not (tmp_path / "imported").exists()


def put(*path: str, value: Any) -> Any:
    def alter(metadata: dict[str, Any]) -> None:
        for key in path[:-1]:
            metadata = metadata[key]
        metadata[path[-1]] = value

    return alter


WRONG: dict[str, Any] = {
    "not JSON": lambda metadata: "{",
    "a list": lambda metadata: "[]",
    "nested without end": lambda metadata: "[" * 100_000,
    "NaN": lambda metadata: "NaN",
    "spec is a number": put("spec", value=3),
    "spec is None": put("spec", value=None),
    "kind is a list": put("spec", "model", "encoder", value={"kind": ["mlp"]}),
    "encoder is a number": put("spec", "model", "encoder", value=3),
    "option of another type": put("spec", "model", "encoder", value={"kind": "mlp", "hidden": "import os"}),
    "option that is not there": put("spec", "model", "encoder", value={"kind": "mlp", "__class__": "os.system"}),
    "latent_dim is text": put("spec", "model", "latent_dim", value="many"),
    "data_shape is text": put("facts", "data_shape", value="large"),
    "data_shape is a number": put("facts", "data_shape", value=3),
    "data_shape is negative": put("facts", "data_shape", value=[1, -6, 6]),
    "data_shape holds lists": put("facts", "data_shape", value=[[1], [6], [6]]),
    "data_shape has five sides": put("facts", "data_shape", value=[1, 6, 6, 6, 6]),
    "value_range is reversed": put("facts", "value_range", value=[1, 0]),
    "facts is a list": put("facts", value=[]),
    "versions is a list": put("versions", value=[]),
    "components is a number": put("versions", "components", value=3),
    "component without a role": put("versions", "components", value={"acme": {"distribution": "a", "version": "1"}}),
    "component of no role": put("versions", "components", value={"x:acme": {"distribution": "a", "version": "1"}}),
    "origin is text": put("versions", "components", value={"encoder:acme": "vaekit"}),
    "distribution is a command": put(
        "versions", "components", value={"encoder:mlp": {"distribution": "x; rm -rf ~", "version": "1"}}
    ),
    "version is an option": put(
        "versions", "components", value={"encoder:mlp": {"distribution": "x", "version": "1 --index-url http://x"}}
    ),
    "distribution holds an escape sequence": put(
        "versions", "components", value={"encoder:mlp": {"distribution": "x\x1b[2J", "version": "1"}}
    ),
    "distribution is long": put("versions", "components", value={"encoder:mlp": {"distribution": "x" * 10**6, "version": "1"}}),
    "distribution is a number": put("versions", "components", value={"encoder:acme": {"distribution": 1, "version": {}}}),
    "state is text": put("state", value="x"),
}


@pytest.mark.parametrize("case", WRONG)
def test_metadata_of_wrong_types_are_a_vaekit_error(forged: Any, case: str) -> None:
    with warnings.catch_warnings(action="ignore"), pytest.raises(VaekitError) as caught:
        vaekit.load(forged(WRONG[case]))
    assert "forged.safetensors" in str(caught.value)
    assert not any(word in (caught.value.remedy or "") for word in ("rm -rf", "--index-url"))
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 3000


class Harm:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("harmed"),))


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Harm()),
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 500_000_000) + b"{" * 1000,
        struct.pack("<Q", 2) + b"{}",
        b"",
        b"\0" * 64,
    ],
    ids=["pickle", "endless header", "huge header", "no metadata", "empty", "zeros"],
)
def test_other_files_are_refused_without_running_code(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        vaekit.load(tmp_path / "model.safetensors")
    assert not (tmp_path / "harmed").exists()


def test_an_unaltered_file_loads(forged: Any) -> None:
    path = forged(lambda metadata: None)
    with pytest.raises(CheckpointError, match="do not match the model's architecture"):  # the encoder is an mlp now
        vaekit.load(path)
    assert "acme" not in roles.encoders
