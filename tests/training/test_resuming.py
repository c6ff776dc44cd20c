"""A run belongs to one process, resumes exactly and loses nothing, whenever it is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vaekit
from vaekit.errors import CheckpointError, UsageError
from vaekit.specs.options import build_spec
from vaekit.store.folder import RunFolder
from vaekit.training.checkpoints import Checkpoints

ROOT = Path(__file__).parents[2]


def options(images: Path, **more: object) -> dict[str, object]:
    networks = {"encoder.hidden": (8,), "decoder.hidden": (8,), "latent_dim": 2}
    fixed = {"batch_size": 16, "epochs": 3, "threads": 1, "device": "cpu", "pictures": "none"}
    return {"dataset": "array", "dataset.path": str(images), **networks, **fixed, **more}


KILLED = """
import os, signal, sys
import vaekit
from vaekit.training.progress import Silent

class Killer(Silent):
    def epoch(self, record):
        if record["epoch"] == 2:
            os.kill(os.getpid(), signal.SIGKILL)

vaekit.train(**eval(sys.argv[1]), out=sys.argv[2], reporter=Killer())
"""


def files_of(run: vaekit.Run, suffix: str) -> dict[str, bytes]:
    return {path.relative_to(run.path).as_posix(): path.read_bytes() for path in run.path.rglob(f"*{suffix}")}


def test_a_run_killed_while_reporting_an_epoch_loses_nothing_and_stops_at_the_same_epoch(images: Path, tmp_path: Path) -> None:
    limits = {"epochs": 9, "max_steps": 50, "patience": 1, "warmup_steps": 4}
    given = options(images, pictures="every:1", lr=0.05, schedule="constant", ema=0.5) | limits
    whole = vaekit.train(**given, out=tmp_path / "whole")
    assert 3 <= len(whole.metrics()) < 9
    command = [sys.executable, "-c", KILLED, repr(given), str(tmp_path / "killed")]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    killed = vaekit.resume(tmp_path / "killed")
    for suffix in (".png", ".gif", "model.safetensors"):
        assert files_of(killed, suffix) == files_of(whole, suffix) != {}
    ours, theirs = (load_file(run.folder.last) for run in (whole, killed))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert whole.evaluation() == killed.evaluation()


def test_a_killed_run_with_a_critic_resumes_to_the_same_bits(images: Path, tmp_path: Path) -> None:
    network = {"kind": "ldm", "channels": (4, 8), "checkpointing": True}
    critic = {"kind": "adversarial", "channels": (4,), "adaptive": True, "weight": "step(0, 0.5, 1)", "feature_matching": 1}
    given = {name: value for name, value in options(images).items() if "." not in name or name.startswith("dataset")}
    given |= {"encoder": network, "decoder": network, "latent_stride": 2, "likelihood": "l1", "loss": [critic], "ema": 0.9}
    whole = vaekit.train(**given, out=tmp_path / "whole")
    command = [sys.executable, "-c", KILLED, repr(given), str(tmp_path / "killed")]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    killed = vaekit.resume(tmp_path / "killed")
    mine, theirs = (load_file(run.folder.last) for run in (whole, killed))
    assert any("critic" in name for name in mine)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name
    assert whole.evaluation() == killed.evaluation()


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(BaseException):
        """Simulates a kill."""

    def die(*arguments: object) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save_best", die)  # the epoch's line of metrics is written, its checkpoint is not
        with pytest.raises(Died):
            vaekit.train(**options(images), out=tmp_path / "run")
    assert len(vaekit.Run(tmp_path / "run").metrics()) == 1
    again, whole = vaekit.resume(tmp_path / "run"), vaekit.train(**options(images), out=tmp_path / "whole")
    assert [record["epoch"] for record in again.metrics()] == [1, 2, 3]
    assert (again.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()


def test_a_model_with_a_deleted_checkpoint_is_not_retrained(images: Path, tmp_path: Path) -> None:
    run = vaekit.train(**options(images), out=tmp_path / "run")
    model = run.folder.model.read_bytes()
    run.folder.last.unlink()
    with pytest.raises(CheckpointError, match=r"last\.safetensors"):
        vaekit.resume(run.path)
    assert run.folder.model.read_bytes() == model


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("seed: 0", "seed: 1", "train.seed was 0, is 1"),
        ("batch_size: 16", "batch_size: 8", "train.batch_size was 16, is 8"),
        ("kind: gaussian\n    max_logvar: 20.0", "kind: gaussian\n    max_logvar: 10.0", "posterior.max_logvar"),
        ("kind: kl", "kind: capacity", "model.loss.0.kind was kl, is capacity"),
    ],
)
def test_an_edited_spec_is_not_resumed(images: Path, tmp_path: Path, old: str, new: str, name: str) -> None:
    run = vaekit.train(**options(images), out=tmp_path / "run")
    run.folder.evaluation.unlink()  # so that it is not complete
    text = run.folder.spec.read_text("utf-8")
    assert old in text
    run.folder.spec.write_text(text.replace(old, new), "utf-8")
    with pytest.raises(CheckpointError, match="no longer the spec") as caught:
        vaekit.resume(run.path)
    assert name in str(caught.value)


@pytest.mark.parametrize(("old", "new"), [("pictures: none", "pictures: auto"), ("threads: 1", "threads: 2")])
def test_settings_that_do_not_determine_the_result_may_change(images: Path, tmp_path: Path, old: str, new: str) -> None:
    run = vaekit.train(**options(images), out=tmp_path / "run")
    run.folder.evaluation.unlink()
    run.folder.spec.write_text(run.folder.spec.read_text("utf-8").replace(old, new), "utf-8")
    assert vaekit.resume(run.path).evaluation() is not None


def test_a_second_process_leaves_an_occupied_folder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both saw an empty folder; the second is rejected, and the first one's files are preserved."""
    spec, other = build_spec({}, {}), build_spec({}, {"seed": 5})
    first = RunFolder.create(spec, tmp_path / "run")
    text = first.spec.read_text("utf-8")
    monkeypatch.setattr("vaekit.store.folder._is_free", lambda path: True)  # as the second saw it before the first had made it
    with pytest.raises(UsageError, match="another process is training"):
        RunFolder.create(other, tmp_path / "run")
    first.release()
    monkeypatch.undo()
    with pytest.raises(UsageError, match="already exists"):
        RunFolder.create(other, tmp_path / "run")
    assert first.spec.read_text("utf-8") == text


def test_only_one_process_trains_into_a_folder(images: Path, tmp_path: Path) -> None:
    code = "import sys, vaekit; vaekit.train(**eval(sys.argv[1]), out=sys.argv[2])"
    command = [sys.executable, "-c", code, repr(options(images)), str(tmp_path / "run")]
    racers = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) for _ in range(3)]
    assert sorted(racer.wait() for racer in racers) == [0, 1, 1]
    assert vaekit.Run(tmp_path / "run").is_complete()


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31mb"])
def test_a_folder_whose_name_cannot_be_printed_is_refused(images: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="control character"):
        vaekit.train(**options(images), out=tmp_path / name)
    assert not (tmp_path / name).exists()
