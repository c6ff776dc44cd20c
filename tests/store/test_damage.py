"""Damaged files are noticed, named, and stop no more than they must."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import vaekit
from vaekit.errors import CheckpointError, SpecError, UsageError
from vaekit.specs.models import dump_spec, read_spec
from vaekit.specs.resolve import resolve
from vaekit.store.checkpoint import digest_of


@pytest.fixture
def run(labelled_run: Path, tmp_path: Path) -> vaekit.Run:
    """A copy of a run, to be damaged."""
    shutil.copytree(labelled_run, tmp_path / "run")
    return vaekit.Run(tmp_path / "run")


@pytest.mark.parametrize("place", [0.05, 0.4, 0.7, 0.99])
def test_a_flipped_bit_of_the_weights_is_noticed(run: vaekit.Run, place: float) -> None:
    content = bytearray(run.folder.model.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    content[start + int(place * (len(content) - start))] ^= 4
    run.folder.model.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged: its content is not what was written"):
        vaekit.load(run.path)


def test_edited_metadata_are_noticed(run: vaekit.Run) -> None:
    with safe_open(run.folder.model, "pt") as file:
        metadata = json.loads(file.metadata()["vaekit-2"])
    metadata["state"]["epoch"] += 1
    save_file(load_file(run.folder.model), run.folder.model, {"vaekit-2": json.dumps(metadata)})
    with pytest.raises(CheckpointError, match="damaged"):
        vaekit.load(run.path)


def test_a_small_file_that_asks_for_a_huge_model_is_refused_before_it_takes_memory(run: vaekit.Run) -> None:
    with safe_open(run.folder.model, "pt") as file:
        metadata = json.loads(file.metadata()["vaekit-2"])
    metadata["spec"]["model"]["latent_dim"] = 10**9
    tensors = load_file(run.folder.model)
    del metadata["digest"]
    metadata["digest"] = digest_of(metadata, tensors)
    save_file(tensors, run.folder.model, {"vaekit-2": json.dumps(metadata)})
    with pytest.raises(CheckpointError, match="do not match the model's architecture"):
        vaekit.load(run.path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"elbo": 1}'])
def test_a_damaged_evaluation_is_absent_with_a_warning(run: vaekit.Run, content: bytes) -> None:
    whole = run.evaluation()
    run.folder.evaluation.write_bytes(content)
    with pytest.warns(UserWarning, match=r"evaluation\.json is damaged"):
        assert run.evaluation() is None
    with pytest.warns(UserWarning, match=r"evaluation\.json is damaged"):
        again = run.evaluate()
    assert again == whole == run.evaluation()


def test_a_damaged_line_of_metrics_is_left_out_with_a_warning(run: vaekit.Run) -> None:
    lines = run.folder.metrics.read_bytes().splitlines(keepends=True)
    run.folder.metrics.write_bytes(lines[0] + b"\xff\xfe{\n" + b"".join(lines[2:]))
    with pytest.warns(UserWarning, match="damaged lines are ignored: 2"):
        assert [record["epoch"] for record in run.metrics()] == [1, 3]


def test_the_last_line_of_metrics_may_be_cut_short(run: vaekit.Run) -> None:
    run.folder.metrics.write_bytes(run.folder.metrics.read_bytes()[:-20])
    assert [record["epoch"] for record in run.metrics()] == [1, 2]


HARMFUL = {
    "aliases": "a: &a [1, 2]\nb: &b [*a, *a]\nc: [*b, *b]",
    "a key given twice": "train:\n  seed: 1\n  seed: 2",
    "a tag": "train: {epochs: !!float 3}",
    "an object": "train: !!python/object/apply:os.system [true]",
    "deep": "[" * 500 + "]" * 500,
    "large": "# " + "x" * 1_100_000,
    "a number of 5000 digits": f"train: {{seed: {'9' * 5000}}}",
}


@pytest.mark.parametrize("case", HARMFUL)
def test_a_harmful_spec_file_is_refused_in_few_words(tmp_path: Path, case: str) -> None:
    (tmp_path / "spec.yaml").write_text(HARMFUL[case], "utf-8")
    with pytest.raises(SpecError) as caught:
        resolve(read_spec(tmp_path / "spec.yaml"))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"train": {"epochs": True}}, "epochs is a number, not true"),
        ({"model": {"loss": [None]}}, "must be a name or a mapping"),
        ({"model": {"latent_dim": [1] * 100_000}}, "latent_dim"),
        ({"train": {f"option{i}": 1 for i in range(1000)}}, "and 990 more"),
    ],
)
def test_what_looks_like_a_value_and_is_none_is_refused_in_few_words(data: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        resolve(data)
    assert len(str(caught.value)) < 2000


def test_more_models_than_a_sweep_can_hold_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too many models"):
        vaekit.sweep(over={"seed": vaekit.Range(0, 99_999_999)}, out=tmp_path / "sweep")


@pytest.mark.parametrize("path", ["a\x85b", "\x85", "größe/β", "'", "1e3", "~", "null", "a\u2028b", "\ud800", "*x", "<<", "😀"])
def test_every_spec_that_is_written_is_read_as_it_was(tmp_path: Path, path: str) -> None:
    spec = resolve({"data": {"dataset": {"kind": "array", "path": path}}})
    (tmp_path / "spec.yaml").write_text(dump_spec(spec), "utf-8")
    assert resolve(read_spec(tmp_path / "spec.yaml")) == spec


class Deep(vaekit.Loss):
    """A loss with an option of any depth."""

    def __init__(self, *, tree: list[Any]) -> None:
        super().__init__()

    def forward(self, trace: vaekit.Trace) -> Tensor:
        raise AssertionError("it is not used")


def test_a_spec_that_could_not_be_read_is_not_written() -> None:
    tree: list[Any] = []
    for _ in range(30):
        tree = [tree]
    with (
        vaekit.losses.temporarily(deep=Deep),
        pytest.raises(SpecError, match="cannot be written so that it can be read"),
    ):
        dump_spec(resolve({"model": {"loss": [{"kind": "deep", "tree": tree}]}}))
    shared = [1, 2]
    with vaekit.losses.temporarily(deep=Deep):
        assert "&" not in dump_spec(resolve({"model": {"loss": [{"kind": "deep", "tree": [shared, shared]}]}}))
