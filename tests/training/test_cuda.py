"""Training on CUDA: the same model as on the CPU up to rounding, without synchronising."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

import vaekit
from vaekit import roles
from vaekit.compute import graphs
from vaekit.compute.process import Interrupted
from vaekit.errors import UsageError
from vaekit.interfaces import Loss
from vaekit.training.step import Step

pytestmark = pytest.mark.gpu

NETWORKS = {
    "mlp": {"encoder.hidden": (16,), "decoder.hidden": (16,)},
    "cnn": {"encoder": "cnn", "encoder.channels": (8, 8), "decoder.channels": (8, 8)},
}


@pytest.fixture
def images(tmp_path):
    path = tmp_path / "images.npy"
    smooth = np.random.default_rng(0).random((160, 4, 4)).repeat(4, 1).repeat(4, 2)
    np.save(path, (255 * smooth).astype(np.uint8))
    return path


def options(images, **more):
    fixed = {"likelihood": "bce", "binarize": "static", "latent_dim": 3, "batch_size": 16, "epochs": 3, "precision": "fp32"}
    return {"dataset": "array", "dataset.path": str(images), "device": "cuda", "pictures": "none", **fixed, **more}


def losses(run):
    return [record["validation_loss"] for record in run.metrics()]


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize(
    ("more", "tolerance"), [({"compile": "graph"}, 1e-4), ({"compile": "on"}, 1e-3), ({"precision": "bf16"}, 0.05)]
)
def test_every_precision_learns_like_single_precision(images, tmp_path, network, more, tolerance):
    plain = vaekit.train(**options(images, compile="off", **network), out=tmp_path / "plain")
    other = vaekit.train(**{**options(images, compile="off", **network), **more}, out=tmp_path / "other")
    assert losses(plain)[-1] < losses(plain)[0]
    np.testing.assert_allclose(losses(other), losses(plain), rtol=tolerance)


@pytest.mark.parametrize("compiled", ["off", "graph"])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_a_step_never_synchronises_with_the_device(images, tmp_path, network, compiled, monkeypatch):
    step = Step.__call__

    def watched(self, reading):
        if reading.number <= graphs.WARM_UP:  # libraries are loaded on first use; recording synchronises
            return step(self, reading)
        with graphs.without_synchronisation():
            return step(self, reading)

    monkeypatch.setattr(Step, "__call__", watched)
    given = options(images, **network, binarize="dynamic", grad_clip=1.0, ema=0.9, compile=compiled)
    vaekit.train(**{**given, "augment.rotate": 10}, out=tmp_path / "run")


@pytest.mark.parametrize("compiled", ["off", "graph"])
def test_a_run_resumes_on_cuda(images, tmp_path, monkeypatch, compiled):
    given = options(images, **NETWORKS["cnn"], compile=compiled, ema=0.9)
    whole = vaekit.train(**given, out=tmp_path / "whole")
    step = Step.__call__

    def interrupted(self, reading):
        if reading.number == 12:  # of 24
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, reading)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "__call__", interrupted)
        with pytest.raises(Interrupted):
            vaekit.train(**given, out=tmp_path / "parts")
    parts = vaekit.resume(tmp_path / "parts")
    assert len(parts.metrics()) == 3
    assert parts.evaluation()["loss"] == pytest.approx(whole.evaluation()["loss"], rel=1e-3)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("bf16", 0.05)])
def test_a_stack_equals_its_models_alone(images, tmp_path, precision, tolerance):
    given = options(images, **NETWORKS["mlp"], loss="beta") | {"precision": precision}
    stacked = vaekit.sweep(over={"beta": (1.0, 4.0)}, **given, stack="on", out=tmp_path / "stacked")
    alone = vaekit.sweep(over={"beta": (1.0, 4.0)}, **given, stack="off", out=tmp_path / "alone")
    for mine, theirs in zip(stacked, alone, strict=True):
        np.testing.assert_allclose(losses(mine), losses(theirs), rtol=tolerance)


@pytest.mark.parametrize("prior", ["mixture", "rectified_flow"])
def test_a_prior_fitted_on_cuda_matches_the_cpu(images, tmp_path, prior):
    given = options(images, **NETWORKS["mlp"]) | {"compile": "off"}
    first = vaekit.train(**given, out=tmp_path / "first")
    second, other = (first.fit_prior(prior, epochs=3, device=device, out=tmp_path / device) for device in ("cuda", "cpu"))
    # codes and batches are those of the CPU, but the noise differs
    assert losses(second)[-1] == pytest.approx(losses(other)[-1], rel=0.05)


def test_log_likelihood_on_cuda_matches_the_cpu(images, tmp_path):
    run = vaekit.train(**options(images, **NETWORKS["mlp"]), out=tmp_path / "run")
    values = [run.evaluate(samples=2000, device=device)["log_likelihood"] for device in ("cuda", "cpu")]
    assert values[0] == pytest.approx(values[1], rel=0.01)  # their noise differs


@pytest.fixture
def looking():
    """A loss that transfers a value to Python, registered for one test."""

    @roles.losses("looking")
    class Looking(Loss):
        """Synchronises with the device."""

        def forward(self, trace):
            return trace.z.square().sum(-1) * (1.0 if trace.z.sum().item() > 0 else 0.5)

    yield
    del roles.losses._classes["looking"]
    roles.losses._specs.pop("looking", None)


def test_steps_are_replayed_if_no_component_synchronises(images, tmp_path):
    run = vaekit.train(**options(images, **NETWORKS["mlp"]), out=tmp_path / "run")
    assert run.spec.train.compile == "graph"


@pytest.mark.usefixtures("looking")
def test_a_component_that_synchronises_is_trained_without_a_graph_unless_requested(images, tmp_path):
    given = options(images, **NETWORKS["mlp"], loss=("kl", "looking"))
    assert vaekit.train(**given, out=tmp_path / "run").spec.train.compile == "off"
    with pytest.raises(UsageError, match="cannot be recorded"):
        vaekit.train(**given, compile="graph", out=tmp_path / "graph")
