"""``distill``: another decoder learns to decode the codes of a run, whose images are encoded once if nothing changes these."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from listener import Listener
from safetensors.torch import load_file

import vaekit
from vaekit.benchmark.decoders import compare_decoders, decoder_table
from vaekit.cli import main
from vaekit.compute import graphs
from vaekit.errors import UsageError
from vaekit.interfaces import MODEL_PARTS
from vaekit.model.vae import VAE
from vaekit.specs.second_stage import distillation
from vaekit.training import step as training_step

SMALL = {"decoder.hidden": (4,), "epochs": 2}
GRID = {"encoder": "cnn", "encoder.channels": (4, 8), "decoder.channels": (8, 4), "latent_dim": 3, "latent_stride": 4}


def train_teacher(images: Path, out: Path, **more: Any) -> vaekit.Run:
    networks = {"encoder.hidden": (8,), "decoder.hidden": (8,), "latent_dim": 2, "likelihood": "gaussian", "binarize": "none"}
    fixed = {"batch_size": 16, "epochs": 1, "threads": 1, "device": "cpu", "pictures": "none", "compile": "off"}
    return vaekit.train(**{"dataset": "array", "dataset.path": str(images), **networks, **fixed, **more}, out=out)


@pytest.fixture
def teacher(images: Path, tmp_path: Path) -> vaekit.Run:
    return train_teacher(images, tmp_path / "teacher", name="teacher", loss="beta", best="beta")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Counts how often batches of 16, those of training, are encoded."""
    counts = [0]
    encode = VAE.params_of

    def params_of(vae: VAE, x: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        counts[0] += torch.is_grad_enabled() and len(x) == 16
        return encode(vae, x, c)

    monkeypatch.setattr(VAE, "params_of", params_of)
    return lambda: counts[0]


def changed(before: vaekit.Run, after: vaekit.Run) -> set[str]:
    """Return the parts of the model that have tensors which are not bit-equal, or are in one of two runs only."""
    ours, theirs = (load_file(run.folder.model) for run in (before, after))
    names = ours.keys() | theirs.keys()
    return {n.partition(".")[0] for n in names if n not in ours or n not in theirs or not torch.equal(ours[n], theirs[n])}


def test_images_are_encoded_once_and_codes_stay_the_same(
    tmp_path: Path, teacher: vaekit.Run, encoded: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    given, before = {**SMALL, "ema": 0.9, "grad_clip": 1.0}, encoded()
    once = teacher.distill("mlp", **given, out=tmp_path / "once")
    assert encoded() == before
    monkeypatch.setattr(training_step, "MOST_CODES", 0)
    listener = Listener()
    always = teacher.distill("mlp", **given, out=tmp_path / "always", reporter=listener)
    assert encoded() == before + 12
    assert any("images are encoded in every step" in note for note in listener.notes)
    assert changed(teacher, once) == {"decoder", "likelihood"}
    ours, theirs = (load_file(run.folder.model) for run in (once, always))
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-5)  # batches of other sizes round differently
    old, new = teacher.evaluation(), once.evaluation()
    assert old is not None
    assert new is not None
    assert new["kl"] == old["kl"]
    assert new["loss"] == new["reconstruction"] == pytest.approx(-new["elbo"] - new["kl"])
    assert once.metrics()[-1]["validation_loss"] < once.metrics()[0]["validation_loss"]
    assert (once.spec.train.name, once.spec.train.best, once.spec.model.loss) == (None, "auto", ())
    before = encoded()
    vaekit.train(teacher.folder.spec, out=tmp_path / "again")
    assert encoded() == before + 6  # where the encoder is trained


@pytest.mark.parametrize(
    "more", [{"binarize": "dynamic", "likelihood": "bce"}, {"augment.rotate": 10}], ids=["binarised", "augmented"]
)
def test_images_that_change_are_encoded_in_every_step(
    images: Path, tmp_path: Path, encoded: Callable[[], int], more: dict[str, Any]
) -> None:
    teacher = train_teacher(images, tmp_path / "teacher", **more)
    before = encoded()
    assert changed(teacher, teacher.distill("mlp", **SMALL, out=tmp_path / "student")) >= {"decoder"}
    assert encoded() == before + 12


def test_it_is_training_with_frozen_parts(tmp_path: Path, teacher: vaekit.Run) -> None:
    student = teacher.distill("mlp", **SMALL, out=tmp_path / "student")
    frozen = [part for part in MODEL_PARTS if part not in {"decoder", "likelihood"}]
    given = {**SMALL, "init": teacher.path, "freeze": frozen, "loss": "gaussian", "best": "auto", "name": "none"}
    run = vaekit.train(teacher.folder.spec, **given, out=tmp_path / "run")
    assert run.spec == student.spec
    assert run.folder.model.read_bytes() == student.folder.model.read_bytes()


def test_it_resumes_to_the_same_bits(tmp_path: Path, teacher: vaekit.Run) -> None:
    given = {**SMALL, "epochs": 3}
    whole = teacher.distill("mlp", **given, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        teacher.distill("mlp", **given, out=tmp_path / "cut", reporter=Listener(1))
    resumed = vaekit.resume(tmp_path / "cut")
    ours, theirs = (load_file(run.folder.last) for run in (resumed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed.folder.model.read_bytes() == whole.folder.model.read_bytes()


@pytest.mark.usefixtures("on_cpu")
def test_a_recorded_step_gathers_codes_and_images(tmp_path: Path, teacher: vaekit.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {**SMALL, "epochs": 1, "compile": "graph", "warmup_steps": 5}  # whose rates it reads, too
    replayed = teacher.distill("mlp", **given, out=tmp_path / "replayed")
    monkeypatch.setattr(graphs, "WARM_UP", 10**9)  # the same step, but never recorded
    taken = teacher.distill("mlp", **given, out=tmp_path / "taken")
    ours, theirs = (load_file(run.folder.model) for run in (replayed, taken))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_decoders_of_a_stack(tmp_path: Path, teacher: vaekit.Run) -> None:
    base = distillation(teacher.path, "mlp")
    given = {**SMALL, "decoder": "mlp"}
    runs = vaekit.sweep(base, over={"lr": (1e-3, 1e-2)}, stack="on", out=tmp_path / "sweep", **given)
    alone = teacher.distill("mlp", lr=1e-2, out=tmp_path / "alone", **SMALL).evaluation()
    swept = runs[1].evaluation()
    assert alone is not None
    assert swept is not None
    assert swept["loss"] == pytest.approx(alone["loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        ({"posterior": "vq", "num_codes": 8}, {"decoder", "likelihood"}),
        ({**GRID, "encoder.hidden": (8,), "decoder.hidden": (8,), "likelihood": "mse"}, {"decoder"}),
    ],
    ids=["codebook", "grid"],
)
def test_decoders_of_other_codes(images: Path, tmp_path: Path, more: dict[str, Any], parts: set[str]) -> None:
    teacher = train_teacher(images, tmp_path / "teacher", **more)
    student = teacher.distill("mlp", **SMALL, out=tmp_path / "student")
    assert changed(teacher, student) == parts


def test_a_decoder_of_a_prior_without_a_density(tmp_path: Path, teacher: vaekit.Run) -> None:
    flow = teacher.fit_prior("rectified_flow", epochs=1, width=8, steps=2, out=tmp_path / "flow")
    student = flow.distill("mlp", **SMALL, out=tmp_path / "student")
    assert changed(flow, student) == {"decoder", "likelihood"}
    result = compare_decoders(flow, student, batches=(3,), seconds=0.01)
    assert result["speedup"].keys() == {"3"}
    with pytest.raises(UsageError, match=r"do not decode the same codes(.*\n)*.*weights of the encoder differ"):
        compare_decoders(train_teacher(flow.spec.data.dataset.path, tmp_path / "other", seed=1), student)


def test_the_command_compares_both_decoders(
    images: Path, tmp_path: Path, teacher: vaekit.Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaekit.benchmark.decoders.compare_decoders", partial(compare_decoders, seconds=0.01))

    out = tmp_path / "student"
    given = ["--decoder", "mlp", "--decoder.hidden", "4", "--epochs", "2", "--loss", "decoder_norm"]
    assert main(["distill", str(teacher.path), *given, "--out", str(out)]) == 0
    printed, run = capsys.readouterr().out, vaekit.Run(out)
    assert [loss.kind for loss in run.spec.model.loss] == ["decoder_norm"]
    result = json.loads((out / "distillation.json").read_text())
    sizes = [2 * 8 + 8 + 8 * 63 + 63, 2 * 4 + 4 + 4 * 63 + 63]
    assert [result[name]["parameters"] for name in ("teacher", "student")] == sizes
    assert result["teacher"]["test"] == teacher.evaluation()
    assert result["student"]["test"] == run.evaluation()
    for batch, ratio in result["speedup"].items():
        times = [result[name]["milliseconds"][batch]["median"] for name in ("teacher", "student")]
        assert ratio == times[0] / times[1]
    table = decoder_table(result)
    assert printed.endswith(f"\n{table}\n")
    titles, first, second, gain = table.splitlines()
    assert titles.split("  ")[-1] == "ms, batch of 64"
    assert "PSNR, dB" in titles
    assert f"{result['student']['test']['psnr']:.2f}" in second
    assert first.split()[:3] == ["teacher", "mlp", str(sizes[0])]
    assert f"has {sizes[1] / sizes[0]:.1%} of the parameters" in gain
    for command in (["sample"], ["evaluate"], ["export", "--torch"]):
        assert main([command[0], str(out), *command[1:]]) == 0, capsys.readouterr().err
    (out / "distillation.json").unlink()
    capsys.readouterr()
    assert main(["bench", "--decoders", str(teacher.path), str(out), "--seconds", "0.01", "--batch", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == (again := json.loads((out / "distillation.json").read_text()))
    assert again["speedup"].keys() == {"2"}
    assert again["student"]["parameters"] == sizes[1]


def test_what_cannot_be_distilled_is_refused(tmp_path: Path, teacher: vaekit.Run, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(teacher.path)
    for arguments, message in (
        ([run], "--decoder bilinear, cnn, ldm"),
        ([run, "--decoder", "mlp", "--features", "vgg16"], "--features NETWORK --features-weights FILE"),
        ([run, "--decoder", "mlp", "--encoder", "cnn"], "--encoder"),
        ([str(tmp_path), "--decoder", "mlp"], "is not a run folder"),
    ):
        assert main(["distill", *arguments, "--out", str(tmp_path / "student")]) != 0
        assert message in capsys.readouterr().err
    assert not (tmp_path / "student").exists()
    assert main(["distill", run, "--decoder", "resnet", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--depth" in shown
    assert "--latent-dim" not in shown
    with pytest.raises(UsageError, match="frozen encoder"):
        teacher.distill("mlp", out=tmp_path / "student", **{"encoder.hidden": (9,)})
