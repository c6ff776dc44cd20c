"""The moving average of the weights: its formula, and its use instead of the last weights."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import vaekit
from vaekit.errors import CheckpointError
from vaekit.specs.models import dump_spec
from vaekit.training.progress import Silent
from vaekit.training.snapshots import Snapshots
from vaekit.training.step import Step


def options(images, **more):
    networks = {"encoder.hidden": (16,), "decoder.hidden": (16,), "latent_dim": 3}
    fixed = {"batch_size": 16, "epochs": 2, "threads": 1, "device": "cpu"}
    return {"dataset": "array", "dataset.path": str(images), **networks, **fixed, **more}


def last(run, part):
    tensors = load_file(run.folder.last)
    return {name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)}


@pytest.mark.parametrize("decay", [0.5, 0.99])  # of 12 steps, the first rises to its highest and the second does not
def test_the_average_is_the_weighted_mean_of_weights_after_each_step(images, tmp_path, monkeypatch, decay):
    seen, update = [], Step.update

    def watched(self, state):
        if not seen:
            seen.append({name: p.detach().double() for name, p in self.objective.named_parameters()})
        update(self, state)
        seen.append({name: p.detach().double() for name, p in self.objective.named_parameters()})

    monkeypatch.setattr(Step, "update", watched)
    run = vaekit.train(**options(images, ema=decay), out=tmp_path / "run")
    decays = [min(decay, (1 + step) / (10 + step)) for step in range(len(seen) - 1)]
    shares = [np.prod(decays)] + [(1 - d) * np.prod(decays[number + 1 :]) for number, d in enumerate(decays)]
    assert sum(shares) == pytest.approx(1)
    averages = last(run, "average.")
    assert averages.keys() == seen[0].keys()
    for name, average in averages.items():
        mean = sum(share * weights[name] for share, weights in zip(shares, seen, strict=True))
        torch.testing.assert_close(average.double(), mean, rtol=1e-5, atol=1e-6)


def test_averaged_weights_are_validated_drawn_and_saved_without_affecting_training(images, tmp_path, monkeypatch):
    drawn, take = [], Snapshots.take

    def watched(self, epoch):
        drawn.append({name: tensor.clone() for name, tensor in self.vae.state_dict().items()})
        return take(self, epoch)

    monkeypatch.setattr(Snapshots, "take", watched)
    run = vaekit.train(**options(images, ema=0.9), out=tmp_path / "run")
    plain = vaekit.train(**options(images), out=tmp_path / "plain")
    for name, weights in last(plain, "objective.").items():
        assert torch.equal(last(run, "objective.")[name], weights), name
    assert [record["train_loss"] for record in run.metrics()] == [record["train_loss"] for record in plain.metrics()]
    assert run.metrics()[-1]["best"]
    for name, average in last(run, "average.").items():
        assert not torch.equal(average, last(run, "objective.")[name]), name
        assert torch.equal(average, load_file(run.folder.best)[name]), name
        assert torch.equal(average, load_file(run.folder.model)[name.removeprefix("vae.")]), name
        assert torch.equal(average, drawn[1][name.removeprefix("vae.")]), name
    validated = run.metrics()[-1]["validation_loss"]
    assert validated != plain.metrics()[-1]["validation_loss"]
    assert run.evaluate(split="validation")["loss"] == pytest.approx(validated, rel=1e-6)


def test_notes_state_the_averaged_weights_and_the_effective_decay(images, tmp_path):
    notes = []
    for decay in (0.5, 0.9):  # reached after 8 and 80 steps of 12
        reporter = Silent()
        reporter.start = lambda start: notes.append(start.notes)
        vaekit.train(**options(images, ema=decay), out=tmp_path / str(decay), reporter=reporter)
    assert all(any("moving average" in line for line in lines) for lines in notes)
    assert [any("not reached in 12 steps" in line for line in lines) for lines in notes] == [False, True]


def test_averaging_cannot_start_on_resume(images, tmp_path):
    run = vaekit.train(**options(images), out=tmp_path / "run")
    run.folder.evaluation.unlink()
    train = run.spec.train.model_copy(update={"ema": 0.9})
    run.folder.spec.write_text(dump_spec(run.spec.model_copy(update={"train": train})))
    with pytest.raises(CheckpointError, match=r"train\.ema was none, is 0\.9"):
        vaekit.resume(run.path)
