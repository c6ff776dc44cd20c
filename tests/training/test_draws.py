"""A loss that draws its own noise supports every way of training."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import vaekit
from vaekit.compute import graphs
from vaekit.data.batches import Batch
from vaekit.errors import PluginError
from vaekit.interfaces import Loss
from vaekit.model.assembly import build_objective, build_vae
from vaekit.roles import losses
from vaekit.specs.options import build_spec
from vaekit.store.record import load_splits
from vaekit.streams import Streams
from vaekit.training.progress import Silent

GIVEN = [{"loss": "shaken"}, {"loss": "mmd", "prior": "mixture"}, {"loss": "mmd", "prior": "vamp", "prior.num_inputs": 5}]


class Shaken(Loss):
    """The squared distance of codes to the loss's own samples."""

    def draw_noise(self, num, generator=None, *, like, model):
        return torch.randn(num, model.latent_dim, generator=generator, device=like.device, dtype=like.dtype)

    def forward(self, trace):
        return (trace.z - trace.draws["shaken"]).square().sum(-1)


@pytest.fixture(autouse=True)
def registered():
    with losses.temporarily(shaken=Shaken):
        yield


def options(images, **more):
    training = {"batch_size": 16, "epochs": 3, "threads": 1, "device": "cpu", "pictures": "none"}
    networks = {"encoder.hidden": (8,), "decoder.hidden": (8,), "latent_dim": 3}
    return {"dataset": "array", "dataset.path": str(images), "likelihood": "bce", **training, **networks, **more}


def weights(run):
    return load_file(run.path / "model.safetensors")


def assert_equal(run, other):
    expected = weights(other)
    for name, tensor in weights(run).items():
        assert torch.equal(tensor, expected[name]), name


def objective_of(images, **more):
    spec = build_spec({}, options(images, **more))
    facts = load_splits(spec).facts
    return build_objective(spec.model, build_vae(spec.model, facts, seed=0), num_data=100, seed=0)


def test_draws_have_their_own_streams_and_are_divided_by_example(images):
    both, alone = objective_of(images, loss=["kl", "shaken"]), objective_of(images, loss="kl")
    x = torch.rand(6, 1, 9, 7)
    whole = Batch(x, x, None, torch.arange(6))
    parts = [Batch(x[i : i + 3], x[i : i + 3], None, torch.arange(3), whole=6, offset=i) for i in (0, 3)]

    def inputs(objective, batch=whole, number=5, split=None):
        return objective.inputs_of(batch, Streams(0), number, epoch=torch.zeros(()), split=split)

    own = inputs(both).draws["shaken"]
    assert own.shape == (6, 3)
    assert inputs(alone).draws == {}
    for split in (None, "test"):
        assert torch.equal(inputs(both, split=split).noise, inputs(alone, split=split).noise)
        shared = torch.cat([inputs(both, part, split=split).draws["shaken"] for part in parts])
        assert torch.equal(shared, inputs(both, split=split).draws["shaken"])
    others = [inputs(both).noise, *(inputs(both, split=split).draws["shaken"] for split in ("train", "test"))]
    others.append(inputs(both, number=6).draws["shaken"])
    assert all(not torch.equal(own, other) for other in others)


def test_the_trace_of_a_divided_batch_has_all_draws(images):
    objective = objective_of(images, loss="shaken")
    x, draws = torch.rand(2, 1, 9, 7), {"shaken": torch.rand(2, 3)}
    trace = objective.vae(x, draws=draws, gather=lambda part, dim: torch.cat([part, 2 * part], dim))
    assert torch.equal(trace.draws["shaken"], draws["shaken"])
    assert torch.equal(trace.whole.draws["shaken"], torch.cat([draws["shaken"], 2 * draws["shaken"]]))
    assert torch.equal(trace.detach().draws["shaken"], draws["shaken"])


@pytest.mark.parametrize("draw", [torch.zeros(1, 3), torch.zeros(()), torch.zeros(3, 2).double(), "noise"], ids=str)
def test_draws_must_have_a_row_per_example(images, tmp_path, monkeypatch, draw):
    monkeypatch.setattr(Shaken, "draw_noise", lambda self, num, generator, *, like, model: draw)
    with pytest.raises(PluginError, match=r"'shaken' of .* violates its contract: its noise"):
        vaekit.train(**options(images, loss="shaken"), out=tmp_path / "run")


class Died(BaseException):
    """Simulates a kill."""


class Killer(Silent):
    def epoch(self, record):
        raise Died


@pytest.mark.parametrize("given", GIVEN)
def test_a_run_resumes_to_the_same_weights_and_is_evaluated_to_the_same_numbers(images, tmp_path, given):
    given = options(images, **given, lr=1e-2)
    run = vaekit.train(**given, out=tmp_path / "run")
    with pytest.raises(Died):
        vaekit.train(**given, out=tmp_path / "killed", reporter=Killer())
    resumed = vaekit.resume(tmp_path / "killed")
    assert_equal(resumed, run)
    first, *_, last = (each["train_reconstruction"] for each in run.metrics())
    assert last < first
    assert resumed.evaluation() == run.evaluation()
    assert run.evaluate() == run.evaluate()


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("given", GIVEN)
def test_a_replayed_step_uses_the_draws_of_its_step(images, tmp_path, monkeypatch, given):
    replayed = vaekit.train(**options(images, **given), compile="graph", out=tmp_path / "replayed")
    monkeypatch.setattr(graphs, "WARM_UP", 10**9)  # the same step, but never recorded
    assert_equal(replayed, vaekit.train(**options(images, **given), compile="graph", out=tmp_path / "taken"))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("over", [{"seed": (0, 1)}, {"lr": (1e-3, 2e-3)}], ids=["draws of each", "draws of all"])
@pytest.mark.parametrize("given", GIVEN)
def test_stacked_models_equal_those_trained_alone(images, tmp_path, given, over):
    swept = vaekit.sweep(over=over, **options(images, **given), stack="on", out=tmp_path / "sweep")
    assert all(group["stacked"] for group in json.loads((tmp_path / "sweep" / "sweep.json").read_text())["groups"])
    for number, run in enumerate(swept):
        point = {name: values[number] for name, values in over.items()}
        expected = weights(vaekit.train(**options(images, **given, **point), out=tmp_path / f"alone-{number}"))
        for name, tensor in weights(run).items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-9)
