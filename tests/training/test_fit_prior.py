"""``fit-prior``: a prior is fitted to the codes of a run; images are encoded once if their codes are fixed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from listener import Listener
from safetensors.torch import load_file

import vaekit
from vaekit import roles
from vaekit.cli import main
from vaekit.compute import graphs
from vaekit.errors import UsageError
from vaekit.interfaces import Aim, Loss
from vaekit.model.vae import VAE
from vaekit.training import step as training_step

Calls = Callable[[], tuple[int, int]]


def train_first(images: Path, out: Path, **more: Any) -> vaekit.Run:
    networks = {"encoder.hidden": (8,), "decoder.hidden": (8,), "latent_dim": 2, "likelihood": "bce", "binarize": "none"}
    fixed = {"batch_size": 16, "epochs": 1, "threads": 1, "device": "cpu", "pictures": "none", "compile": "off"}
    return vaekit.train(**{"dataset": "array", "dataset.path": str(images), **networks, **fixed, **more}, out=out)


@pytest.fixture
def first(images: Path, tmp_path: Path) -> vaekit.Run:
    return train_first(images, tmp_path / "first")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Counts how often training batches (of 16) are encoded and decoded."""
    counts = [0, 0]
    encode, decode = VAE.params_of, VAE.likelihood_of

    def params_of(vae: VAE, x: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        counts[0] += torch.is_grad_enabled() and len(x) == 16
        return encode(vae, x, c)

    def likelihood_of(vae: VAE, z: torch.Tensor, c: torch.Tensor | None = None) -> Any:
        counts[1] += torch.is_grad_enabled() and z.shape[-2] == 16
        return decode(vae, z, c)

    monkeypatch.setattr(VAE, "params_of", params_of)
    monkeypatch.setattr(VAE, "likelihood_of", likelihood_of)
    return lambda: (counts[0], counts[1])


def assert_same_but_for_the_prior(first: vaekit.Run, second: vaekit.Run) -> None:
    ours, theirs = (load_file(run.folder.model) for run in (first, second))
    kept = {name for name in ours if not name.startswith("prior.")}
    assert kept == {name for name in theirs if not name.startswith("prior.")}
    assert all(torch.equal(ours[name], theirs[name]) for name in kept)


@pytest.mark.parametrize("more", [{}, {"ema": 0.9, "grad_clip": 1.0}], ids=["plain", "average"])
@pytest.mark.parametrize("prior", ["mixture", "rectified_flow"])
def test_images_are_encoded_once_and_never_decoded(
    tmp_path: Path, first: vaekit.Run, calls: Calls, monkeypatch: pytest.MonkeyPatch, *, prior: str, more: dict[str, Any]
) -> None:
    given = {"epochs": 3, **({"prior.width": 8} if prior == "rectified_flow" else {}), **more}
    once = first.fit_prior(prior, **given, out=tmp_path / "once")
    assert calls() == (0, 0)
    monkeypatch.setattr(training_step, "MOST_CODES", 0)
    listener = Listener()
    always = first.fit_prior(prior, **given, out=tmp_path / "always", reporter=listener)
    assert calls() == (18, 0)
    assert any("images are encoded in every step" in note for note in listener.notes)
    assert_same_but_for_the_prior(first, once)
    ours, theirs = (load_file(run.folder.model) for run in (once, always))
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-5)  # batches of other sizes round differently
    before, after = first.metrics()[-1], once.metrics()
    assert after[-1]["validation_loss"] < after[0]["validation_loss"]
    assert after[0]["validation_reconstruction"] == after[-1]["validation_reconstruction"] == before["validation_reconstruction"]
    assert not {"train_reconstruction", "train_elbo"} & after[0].keys()
    assert {"train_loss"} < {name for name in after[0] if name.startswith("train_")}


@pytest.mark.parametrize(
    "more", [{"binarize": "dynamic"}, {"augment.rotate": 10}, {"binarize": "static"}], ids=["binarised", "augmented", "static"]
)
def test_images_that_change_are_encoded_in_every_step(images: Path, tmp_path: Path, calls: Calls, more: dict[str, Any]) -> None:
    first = train_first(images, tmp_path / "first", **more)
    encoded, decoded = calls()
    first.fit_prior("mixture", epochs=2, out=tmp_path / "second")
    steps = 0 if more == {"binarize": "static"} else 12
    assert calls() == (encoded + steps, decoded)


class Looks(Loss):
    """A loss that trains the prior and uses images."""

    covers = frozenset({"divergence"})
    samples = None

    def aims(self) -> dict[str, Aim]:
        return {"looks": Aim(moves=("prior",))}

    def forward(self, trace: vaekit.Trace) -> torch.Tensor:
        return -trace.site.log_p * trace.x.flatten(1).mean(1)


class Decodes(Looks):
    """A loss that trains the prior and uses decoded images."""

    def forward(self, trace: vaekit.Trace) -> torch.Tensor:
        return -trace.site.log_p * trace.reconstruction.flatten(1).mean(1)

    def aims(self) -> dict[str, Aim]:
        return {"decodes": Aim(moves=("prior",))}


def test_losses_of_images_receive_them(tmp_path: Path, first: vaekit.Run, calls: Calls) -> None:
    with roles.losses.temporarily(looks=Looks):
        run = first.fit_prior("mixture", loss="looks", epochs=2, out=tmp_path / "second")
    assert calls() == (0, 0)
    assert "train_reconstruction" not in run.metrics()[-1]
    with roles.losses.temporarily(decodes=Decodes):
        run = first.fit_prior("mixture", loss="decodes", epochs=2, out=tmp_path / "third")
    assert calls() == (0, 12)
    assert "train_reconstruction" not in run.metrics()[-1]  # which needs the images


@pytest.mark.parametrize("prior", ["mixture", "rectified_flow"])
def test_fitting_a_prior_resumes_to_the_same_bits(tmp_path: Path, first: vaekit.Run, prior: str) -> None:
    whole = first.fit_prior(prior, epochs=3, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        first.fit_prior(prior, epochs=3, out=tmp_path / "cut", reporter=Listener(1))
    resumed = vaekit.resume(tmp_path / "cut")
    ours, theirs = (load_file(run.folder.last) for run in (resumed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed.folder.model.read_bytes() == whole.folder.model.read_bytes()


@pytest.mark.usefixtures("on_cpu")
def test_a_recorded_step_gathers_codes(tmp_path: Path, first: vaekit.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"prior.width": 8, "epochs": 2, "compile": "graph"}
    replayed = first.fit_prior("rectified_flow", **given, out=tmp_path / "replayed")
    monkeypatch.setattr(graphs, "WARM_UP", 10**9)  # the same step, but never recorded
    taken = first.fit_prior("rectified_flow", **given, out=tmp_path / "taken")
    ours, theirs = (load_file(run.folder.model) for run in (replayed, taken))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("stack", ["on", "off"])
def test_flows_of_a_sweep(tmp_path: Path, first: vaekit.Run, stack: Any) -> None:
    base = vaekit.specs.second_stage.second_stage(first.path, "rectified_flow")
    given = {"prior": "rectified_flow", "prior.width": 8, "epochs": 2}
    runs = vaekit.sweep(base, over={"lr": (1e-3, 1e-2)}, stack=stack, out=tmp_path / "sweep", **given)
    alone = vaekit.fit_prior(first, lr=1e-2, out=tmp_path / "alone", **given).evaluation()
    stacked = runs[1].evaluation()
    assert alone is not None
    assert stacked is not None
    assert stacked["loss"] == pytest.approx(alone["loss"], rel=1e-5)


def test_codes_of_a_codebook_are_predicted(images: Path, tmp_path: Path) -> None:
    first = train_first(images, tmp_path / "first", posterior="vq", num_codes=8)
    second = first.fit_prior("pixelcnn", width=8, epochs=2, out=tmp_path / "second")
    last = second.metrics()[-1]
    assert last["validation_prior_nll"] == pytest.approx(last["validation_kl"], rel=1e-5)
    assert last["validation_kl"] < first.metrics()[-1]["validation_kl"] == pytest.approx(np.log(8), rel=1e-5)


def test_a_prior_that_holds_images_receives_them(tmp_path: Path, first: vaekit.Run, calls: Calls) -> None:
    run = first.fit_prior("exemplar", num_exemplars=4, epochs=2, out=tmp_path / "second")
    assert calls()[1] == 0
    stored = load_file(run.folder.model)["prior.inputs"]
    images = run.splits.train.gather(torch.arange(len(run.splits.train))) / 255
    assert (stored[:, None] - images).abs().amax((2, 3, 4)).amin(1).max() < 1e-6


GRID = {"encoder": "cnn", "encoder.channels": (4, 8), "decoder.channels": (8, 4), "latent_dim": 3, "latent_stride": 4}
KINDS = {
    "vectors": {},
    "points": {"posterior": "delta"},
    "grid": {**GRID, "encoder.hidden": (8,), "decoder.hidden": (8,)},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prior", ["full_mixture", "maf", "rectified_flow"])
def test_the_result_is_a_run_of_the_whole_model(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, prior: str
) -> None:
    pytest.importorskip({"maf": "zuko", "full_mixture": "sklearn"}.get(prior, "torch"))
    first = train_first(images, tmp_path / "first", **KINDS[kind])
    small = {"full_mixture": {"num_components": 2}, "maf": {"hidden": "8"}, "rectified_flow": {"width": 8, "steps": 3}}[prior]
    flags = [part for name, value in small.items() for part in (f"--prior.{name.replace('_', '-')}", str(value))]
    out = tmp_path / "second"
    assert main(["fit-prior", str(first.path), "--prior", prior, *flags, "--epochs", "2", "--out", str(out)]) == 0
    printed, run = capsys.readouterr().out, vaekit.Run(out)
    evaluation = run.evaluation()
    assert evaluation is not None
    has_elbo = kind != "points" and prior != "rectified_flow"
    assert ("elbo" in evaluation) == ("kl" in evaluation) == has_elbo
    assert ("the posterior or the prior has no density" in printed) == (not has_elbo)
    assert run.spec.model.loss[0].kind == ("flow_matching" if prior == "rectified_flow" else "prior_nll")
    assert run.vae().sample(3).shape == (3, 1, 9, 7)
    for command in (["sample"], ["report"], ["evaluate"], ["export", "--torch"]):
        assert main([command[0], str(out), *command[1:]]) == 0, capsys.readouterr().err
    assert json.loads((out / "evaluation.json").read_text())["loss"] == pytest.approx(evaluation["loss"])
    if prior == "rectified_flow":
        assert ("the prior &#x27;rectified_flow&#x27; has no density" in (out / "report.html").read_text()) == (kind != "points")
        capsys.readouterr()
        assert main(["evaluate", str(out), "--samples", "10"]) == 2
        with pytest.raises(UsageError, match=r"elbo is not available.* has no density"):
            first.fit_prior(prior, best="elbo", out=tmp_path / "third")


def test_a_prior_without_a_density_is_noted(tmp_path: Path, first: vaekit.Run) -> None:
    listener = Listener()
    first.fit_prior("rectified_flow", epochs=1, reporter=listener, out=tmp_path / "second")
    assert "the prior 'rectified_flow' has no density, so there is no KL, no ELBO and no log p(x)" in listener.notes
    with pytest.raises(UsageError, match="loss 'kl' needs log_prob, which the prior 'rectified_flow' does not provide"):
        vaekit.train(prior="rectified_flow", out=tmp_path / "third")


def test_a_prior_of_another_space_and_none_at_all_are_refused(
    tmp_path: Path, first: vaekit.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="on different spaces"):
        first.fit_prior("pixelcnn", out=tmp_path / "second")
    with pytest.raises(UsageError, match="nothing to train"):
        first.fit_prior("normal", out=tmp_path / "second")
    assert main(["fit-prior", str(first.path)]) == 2
    assert "--prior exemplar, full_mixture, maf" in capsys.readouterr().err
    assert main(["fit-prior", str(first.path), "--prior", "maf", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--transforms" in shown
    assert "--encoder" not in shown
    assert main(["fit-prior", str(tmp_path), "--prior", "maf"]) != 0
    assert "is not a run folder" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "option"), [("fit-prior", "--num-components"), ("distill", "--decoder.channels")])
def test_help_needs_no_run(tmp_path, monkeypatch, capsys, command, option):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    assert main([command, "--help"]) == 0
    assert option in capsys.readouterr().out
    assert main([command]) == 1
    assert "no run found" in capsys.readouterr().err
