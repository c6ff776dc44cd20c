"""Damaged files are detected, named, and stop no more than necessary."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import vaekit
from vaekit.benchmark.report import read_result
from vaekit.errors import CheckpointError, SpecError, UsageError, VaekitError
from vaekit.files import write_text
from vaekit.report import write_report
from vaekit.specs.models import dump_spec, read_spec
from vaekit.specs.options import build_spec
from vaekit.specs.resolve import resolve
from vaekit.store.checkpoint import digest_of
from vaekit.training.snapshots import write_frames


@pytest.fixture
def run(labelled_run: Path, tmp_path: Path) -> vaekit.Run:
    """A copy of a run to damage."""
    shutil.copytree(labelled_run, tmp_path / "run")
    return vaekit.Run(tmp_path / "run")


@pytest.mark.parametrize("place", [0.05, 0.4, 0.7, 0.99])
def test_a_flipped_bit_of_the_weights_is_detected(run: vaekit.Run, place: float) -> None:
    content = bytearray(run.folder.model.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    content[start + int(place * (len(content) - start))] ^= 4
    run.folder.model.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged: its content has changed since it was written"):
        vaekit.load(run.path)


def test_edited_metadata_are_detected(run: vaekit.Run) -> None:
    with safe_open(run.folder.model, "pt") as file:
        metadata = json.loads(file.metadata()["vaekit-3"])
    metadata["state"]["epoch"] += 1
    save_file(load_file(run.folder.model), run.folder.model, {"vaekit-3": json.dumps(metadata)})
    with pytest.raises(CheckpointError, match="damaged"):
        vaekit.load(run.path)


def test_a_small_file_of_a_huge_model_is_refused_before_allocation(run: vaekit.Run) -> None:
    with safe_open(run.folder.model, "pt") as file:
        metadata = json.loads(file.metadata()["vaekit-3"])
    metadata["spec"]["model"]["latent_dim"] = 10**6
    tensors = load_file(run.folder.model)
    del metadata["digest"]
    metadata["digest"] = digest_of(metadata, tensors)
    save_file(tensors, run.folder.model, {"vaekit-3": json.dumps(metadata)})
    with pytest.raises(CheckpointError, match="do not match the model's architecture"):
        vaekit.load(run.path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"elbo": 1}'])
def test_a_damaged_evaluation_is_ignored_with_a_warning(run: vaekit.Run, content: bytes) -> None:
    whole = run.evaluation()
    run.folder.evaluation.write_bytes(content)
    with pytest.warns(UserWarning, match=r"evaluation\.json is damaged"):
        assert run.evaluation() is None
    with pytest.warns(UserWarning, match=r"evaluation\.json is damaged"):
        again = run.evaluate()
    assert again == whole == run.evaluation()


def test_a_damaged_line_of_metrics_is_skipped_with_a_warning(run: vaekit.Run) -> None:
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
def test_a_malicious_spec_file_is_refused_with_a_short_error(tmp_path: Path, case: str) -> None:
    (tmp_path / "spec.yaml").write_text(HARMFUL[case], "utf-8")
    with pytest.raises(SpecError) as caught:
        resolve(read_spec(tmp_path / "spec.yaml"))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"train": {"epochs": True}}, "epochs must be a number, not true"),
        ({"model": {"loss": [None]}}, "must be a name or a mapping"),
        ({"model": {"latent_dim": [1] * 100_000}}, "latent_dim"),
        ({"train": {f"option{i}": 1 for i in range(1000)}}, "and 990 more"),
    ],
)
def test_invalid_values_are_refused_with_a_short_error(data: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        resolve(data)
    assert len(str(caught.value)) < 2000


def test_a_sweep_of_too_many_models_is_refused_immediately(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too many models"):
        vaekit.sweep(over={"seed": vaekit.Range(0, 99_999_999)}, out=tmp_path / "sweep")


@pytest.mark.parametrize("path", ["a\x85b", "\x85", "größe/β", "'", "1e3", "~", "null", "a\u2028b", "\ud800", "*x", "<<", "😀"])
def test_every_spec_round_trips_through_its_file(tmp_path: Path, path: str) -> None:
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
        pytest.raises(SpecError, match="cannot be written in a form that can be read back"),
    ):
        dump_spec(resolve({"model": {"loss": [{"kind": "deep", "tree": tree}]}}))
    shared = [1, 2]
    with vaekit.losses.temporarily(deep=Deep):
        assert "&" not in dump_spec(resolve({"model": {"loss": [{"kind": "deep", "tree": [shared, shared]}]}}))


# Excessive numbers

HUGE = [10**12, 10**23, 10**400]


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize(
    "option", ["epochs", "batch_size", "latent_dim", "workers", "threads", "encoder.hidden", "encoder.depth", "seed", "pictures"]
)
def test_excessive_numbers_are_refused_in_a_spec(option: str, number: int) -> None:
    if option == "seed" and number == 10**12:
        return  # a seed takes no memory
    encoder = {"encoder": "resnet"} if option == "encoder.depth" else {}
    with pytest.raises(SpecError, match=option.rpartition(".")[2]) as caught:
        build_spec({}, {**encoder, option: str(number)})
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize(
    ("picture", "option"),
    [
        ("sample", "num"),
        ("traverse", "steps"),
        ("traverse", "num"),
        ("manifold", "side"),
        ("morph", "steps"),
        ("variations", "per_class"),
        ("scatter", "num"),
        ("sample", "seed"),
        ("variations", "seed"),
        ("scatter", "seed"),
    ],
)
def test_excessive_numbers_are_refused_by_pictures(run: vaekit.Run, picture: str, option: str, number: int) -> None:
    if option == "seed" and number == 10**12:
        return
    with pytest.raises(SpecError, match=option):
        run.pictures[picture](**{option: number})


@pytest.mark.parametrize("number", [0, -1])
@pytest.mark.parametrize("kind", [kind for kind in vaekit.pictures.kinds() if kind not in {"interpolate", "reconstruct"}])
def test_counts_below_one_are_refused_by_pictures(run: vaekit.Run, kind: str, number: int) -> None:
    for name, field in vaekit.pictures.spec(kind).model_fields.items():
        if field.annotation is int and name != "seed":
            with pytest.raises(SpecError, match=name):
                run.pictures[kind](**{name: number})


# Checkpoint metadata


def reseal(file: Path, alter: Callable[[dict[str, Any], dict[str, Tensor]], object]) -> None:
    """Modify the metadata and tensors of a file, and update its digest."""
    with safe_open(file, "pt") as opened:
        metadata = json.loads(opened.metadata()["vaekit-3"])
    tensors = load_file(file)
    del metadata["digest"]
    alter(metadata, tensors)
    metadata["digest"] = digest_of(json.loads(json.dumps(metadata)), tensors)
    save_file(tensors, file, {"vaekit-3": json.dumps(metadata)})


def test_non_finite_weights_are_neither_sampled_nor_evaluated(run: vaekit.Run) -> None:
    def spoil(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        next(tensor for name, tensor in tensors.items() if name.endswith("weight")).view(-1)[0] = float("nan")

    reseal(run.folder.model, spoil)
    reseal(run.folder.best, spoil)
    for use in (run.sample, run.evaluate, run.vae, lambda: vaekit.load(run.path)):
        with pytest.raises(CheckpointError, match="NaN or infinite"):
            use()


def test_non_finite_weights_are_refused_as_initial_weights(run: vaekit.Run, tmp_path: Path) -> None:
    def spoil(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        tensors["encoder.net.1.weight"].view(-1)[0] = float("nan")

    reseal(run.folder.model, spoil)
    with pytest.raises(CheckpointError, match=r"NaN or infinite(.*\n)*.*encoder\.net\.1\.weight"):
        vaekit.train(run.folder.spec, init=run.path, out=tmp_path / "next")
    assert not (tmp_path / "next").exists()


def test_an_invalid_digest_of_initial_weights_is_a_vaekit_error(run: vaekit.Run) -> None:
    reseal(run.folder.model, lambda metadata, tensors: metadata.update(init=3))
    with pytest.raises(CheckpointError, match=r"metadata of .*model\.safetensors is damaged"):
        vaekit.load(run.path)


@pytest.mark.parametrize(
    "state",
    [
        {"epoch": "one"},
        {"epoch": -1},
        {"epoch": 10**6},
        {"epoch": 1.5},
        {"epoch": True},
        {"step": -3},
        {"step": 10**6},
        {"best": "low"},
        {"meter_count": "x"},
        {"meter_names": 3},
        {"extra": 1},
        {"threads": "many"},
    ],
    ids=str,
)
def test_an_edited_position_is_a_vaekit_error(run: vaekit.Run, state: dict[str, Any]) -> None:
    run.folder.evaluation.unlink()
    reseal(run.folder.last, lambda metadata, tensors: metadata["state"].update(state))
    with pytest.raises(CheckpointError, match=r"last\.safetensors is damaged"):
        vaekit.resume(run.path)


@pytest.mark.parametrize("key", ["step", "exp_avg"])
@pytest.mark.parametrize("change", ["shape", "NaN", "number"])
def test_an_edited_optimiser_state_is_a_vaekit_error(run: vaekit.Run, key: str, change: str) -> None:
    def spoil(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        name = f"optimizer.0.0.{key}"
        if change == "shape":
            tensors[name] = torch.zeros(3)
        elif change == "NaN":
            tensors[name] = torch.full_like(tensors[name], torch.nan)
        else:
            tensors[f"optimizer.0.99.{key}"] = tensors.pop(name)

    run.folder.evaluation.unlink()
    reseal(run.folder.last, spoil)
    with pytest.raises(CheckpointError, match=r"last\.safetensors is damaged"):
        vaekit.resume(run.path)


# After a kill


def test_temporary_files_of_a_process_that_was_killed_are_removed(run: vaekit.Run) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    stale = [run.path / f".model.safetensors.{gone.pid}.tmp", run.folder.last.with_name(f".last.safetensors.{gone.pid}.tmp")]
    kept = [run.path / f".evaluation.json.{os.getpid()}.tmp", run.path / ".notes.tmp", run.path / f".x.{2**40}.tmp"]
    for file in (*stale, *kept):
        file.touch()
    run.folder.acquire()
    run.folder.release()
    assert [file.exists() for file in stale] == [False, False]
    assert [file.exists() for file in kept] == [True, True, False]


@pytest.mark.skipif(os.name == "nt", reason="no FIFOs")
def test_a_fifo_in_place_of_a_file_is_refused_and_does_not_hang(run: vaekit.Run, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    uses = [
        lambda: vaekit.load(fifo),
        lambda: read_spec(fifo),
        lambda: read_result(fifo),
        lambda: vaekit.search(over={"lr": (1e-3, 1e-2)}, storage=fifo, trials=1, epochs=1, pictures="none"),
        lambda: run.reconstruct([fifo]),
        lambda: write_text(fifo, "text"),
    ]
    for use in uses:
        with pytest.raises(VaekitError):
            use()


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"no picture", None], ids=["empty", "head", "text", "cut short"])
def test_a_damaged_frame_is_skipped_with_a_warning(tmp_path: Path, content: bytes | None) -> None:
    frames = [tmp_path / f"{number}.png" for number in range(3)]
    for number, frame in enumerate(frames):
        Image.effect_noise((60, 60), 50 + number).save(frame)
    frames[1].write_bytes(frames[1].read_bytes()[:800] if content is None else content)
    with pytest.warns(UserWarning, match=r"1\.png is damaged and is left out"):
        write_frames(frames, tmp_path / "training.gif")
    with Image.open(tmp_path / "training.gif") as animation:
        assert animation.n_frames == 2
    with pytest.warns(UserWarning, match="is damaged"):
        write_frames(frames[1:2], tmp_path / "empty.gif")
    assert not (tmp_path / "empty.gif").exists()


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"no picture", None], ids=["empty", "head", "text", "FIFO"])
def test_a_damaged_picture_is_omitted_from_the_report_with_a_warning(run: vaekit.Run, content: bytes | None) -> None:
    damaged = [run.folder.samples / "epoch-0002.png", run.folder.gif]
    for file in damaged:
        file.unlink()
        os.mkfifo(file) if content is None else file.write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged and is left out") as caught:
        page = write_report(run).read_text("utf-8")
    named = [str(warning.message) for warning in caught]
    assert all(any(str(file) in text for text in named) for file in damaged)
    assert "Samples, by epoch" in page
    assert "Animation of training" not in page
