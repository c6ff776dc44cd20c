"""A step with gradient accumulation equals the step of the whole batch."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small import PARTS, fitting_loss, fitting_posterior, fitting_prior, small_parts
from torch import nn

import vaekit
from vaekit import roles
from vaekit.benchmark.throughput import throughput
from vaekit.compute import graphs
from vaekit.errors import UsageError
from vaekit.interfaces import Backbone
from vaekit.model.assembly import assemble
from vaekit.model.objective import Objective
from vaekit.specs.options import build_spec
from vaekit.store.record import load_splits
from vaekit.training.hardware import fit_to_machine
from vaekit.training.progress import Silent
from vaekit.training.step import Step


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path, rng = tmp_path_factory.mktemp("images") / "images.npz", np.random.default_rng(0)
    smooth = rng.random((120, 4, 4, 3)).repeat(4, 1).repeat(4, 2)
    np.savez(path, images=(255 * smooth).astype(np.uint8), labels=rng.integers(3, size=120))
    np.savez(path.with_name("counts.npz"), counts=rng.poisson(3, (120, 5)), labels=rng.integers(3, size=120))
    return path


def options(images, **more):
    fixed = {"latent_dim": 3, "batch_size": 16, "epochs": 1, "threads": 1, "device": "cpu", "pictures": "none", "compile": "off"}
    networks = {} if {"encoder", "decoder"} & set(more) else {"encoder.hidden": (8,), "decoder.hidden": (8,)}
    if roles.likelihoods.get(more.get("likelihood", "bce")).scores == "counts":
        images = images.with_name("counts.npz")
    return {"dataset": "array", "dataset.path": str(images), **fixed, **networks, **more}


def step_of(images, **more):
    spec = fit_to_machine(build_spec({}, options(images, **more)))
    splits = load_splits(spec)
    return Step(spec, assemble(spec, splits), splits)


def epoch_of(images, **more):
    """Take the steps of an epoch; return the state of the objective, its moving average, and the terms of each step."""
    step = step_of(images, **more)
    step.objective.train()
    terms = [{name: value.item() for name, value in step(reading).items()} for reading in step.batches.readings(0)]
    with step.averaged():
        average = {name: tensor.clone() for name, tensor in step.objective.state_dict().items()}
    return step.objective.state_dict(), average, terms


def assert_same(one, other, rtol=1e-9, atol=1e-9):
    for mine, theirs in zip(one[:2], other[:2], strict=True):
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            torch.testing.assert_close(tensor, theirs[name], rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}")
    for mine, theirs in zip(one[2], other[2], strict=True):
        assert mine == pytest.approx(theirs, rel=rtol, abs=atol)


def kinds():
    """Every built-in component used in a step, in a small model."""
    for registry in PARTS:
        for kind in registry.kinds():
            chosen = {"likelihood": "bce", "posterior": fitting_posterior(registry.role, kind), registry.role: kind}
            chosen |= fitting_loss(registry.role, kind)
            yield pytest.param(small_parts({**fitting_prior(registry.role, kind), **chosen}), id=f"{registry.role}-{kind}")


SETTINGS = [
    {"loss": "beta", "loss.beta": "linear(0, 4, 1.5)"},
    {"grad_clip": 0.1, "weight_decay": 0.1},
    {"augment.rotate": 20, "augment.target": "original", "likelihood": "bce", "binarize": "dynamic"},
    {"ema": 0.9, "posterior": "vq", "posterior.num_codes": 8},
    {"loss": "iwae", "loss.num_samples": 3, "condition": "label", "likelihood": "bce"},
]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("given", [*kinds(), *SETTINGS])
def test_accumulated_steps_equal_those_of_whole_batches(images, given):
    loss = given.get("loss")
    if isinstance(loss, str) and getattr(roles.losses.get(loss), "batch_statistic", False):
        with pytest.raises(UsageError, match="cannot be accumulated") as raised:
            step_of(images, **given, accumulate=4)
        assert repr(loss) in str(raised.value.given)
        return
    rtol = atol = 1e-9
    if roles.likelihoods.get(given.get("likelihood", "bce")).scores == "counts":  # which are read in single precision
        torch.set_default_dtype(torch.float32)
        rtol, atol = 1e-4, 1e-5
    whole = epoch_of(images, **given)
    assert_same(epoch_of(images, **given, accumulate=4), whole, rtol, atol)
    with pytest.raises(AssertionError):  # the comparison sees a step of another size
        assert_same(epoch_of(images, **given, lr=2.2e-3), whole, rtol, atol)


def test_learned_state_depends_on_the_whole_batch(images, monkeypatch):
    """With the last part alone, the codebook would move elsewhere."""
    given = {"posterior": "vq", "posterior.num_codes": 8, "accumulate": 4}
    right = epoch_of(images, **given)[0]["vae.posterior.usage"]
    monkeypatch.setattr(Objective, "learn", lambda self, inputs: self.next_state(self.trace(self.parts_of(inputs)[-1])))
    assert not torch.allclose(epoch_of(images, **given)[0]["vae.posterior.usage"], right, rtol=1e-3)


@pytest.mark.parametrize("samples", [(), (5,)], ids=["one sample", "several"])
def test_parts_partition_the_draws_of_a_batch(images, samples):
    more = {"loss": "iwae", "loss.num_samples": 5} if samples else {"loss": ["kl", "vae_gan"], "likelihood": "bce"}
    step, whole = step_of(images, accumulate=4, **more), step_of(images, **more)
    reading = next(step.batches.readings(0))
    inputs, expected = step.inputs(reading), whole.inputs(reading)
    parts = step.objective.parts_of(inputs)
    assert [len(part.x) for part in parts] == [4, 4, 4, 4]
    assert torch.equal(torch.cat([part.x for part in parts]), expected.x)
    assert torch.equal(torch.cat([part.target for part in parts]), expected.target)
    assert torch.equal(torch.cat([part.noise for part in parts], len(samples)), expected.noise)
    assert torch.equal(torch.cat([part.y for part in parts]), expected.y)
    assert all(part.epoch is inputs.epoch for part in parts)
    assert bool(expected.draws) == (not samples)
    for kind, drawn in expected.draws.items():
        assert torch.equal(torch.cat([part.draws[kind] for part in parts]), drawn)


def test_a_batch_that_cannot_be_split_is_refused(images):
    with pytest.raises(UsageError, match="equal parts") as raised:
        step_of(images, accumulate=5)
    assert "a multiple of 5" in str(raised.value)


def test_free_bits_are_a_statistic_of_the_batch(images):
    step_of(images, loss="beta", accumulate=2)
    with pytest.raises(UsageError, match="'beta'"):
        step_of(images, loss="beta", free_bits=0.1, accumulate=2)


def test_batch_normalisation_is_refused(images):
    class Normalised(Backbone):
        """A linear layer after batch normalisation."""

        def __init__(self, in_shape, out_shape):
            super().__init__(in_shape, out_shape)
            self.net = nn.Sequential(
                nn.BatchNorm2d(in_shape[0]), nn.Flatten(), nn.Linear(math.prod(in_shape), math.prod(out_shape))
            )

        def forward(self, x):
            return self.net(x).unflatten(1, self.out_shape)

    with roles.encoders.temporarily(normalised=Normalised), pytest.raises(UsageError, match="batch normalisation in the model"):
        step_of(images, encoder="normalised", decoder="mlp", accumulate=2)


def test_a_default_batch_is_a_multiple_of_the_number_of_parts(images, tmp_path):
    given = options(images, accumulate=9)
    del given["batch_size"]
    run = vaekit.train(**given, out=tmp_path / "run")
    assert run.spec.train.batch_size == 9


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("more", [{}, {"posterior": "vq", "posterior.num_codes": 8}, {"loss": "vae_gan", "likelihood": "bce"}])
def test_replayed_steps_equal_eager_ones(images, tmp_path, monkeypatch, more):
    given = options(images, **more, accumulate=4, epochs=2) | {"compile": "graph"}
    replayed = vaekit.train(**given, out=tmp_path / "replayed")
    monkeypatch.setattr(graphs, "WARM_UP", 10**9)  # the same step, but never recorded
    taken = vaekit.train(**given, out=tmp_path / "taken")
    for name, tensor in load_file(taken.folder.last).items():
        assert torch.equal(tensor, load_file(replayed.folder.last)[name]), name


@pytest.mark.slow
def test_compiled_steps_equal_eager_ones(images):
    given = {"accumulate": 4, "posterior": "vq", "posterior.num_codes": 8}
    assert_same(epoch_of(images, **given, compile="on"), epoch_of(images, **given), rtol=1e-4, atol=1e-5)


def test_steps_of_low_precision_differ_by_rounding_only(images):
    given = {"precision": "bf16", "lr": 1e-4}
    assert_same(epoch_of(images, **given, accumulate=4), epoch_of(images, **given), rtol=2e-2, atol=2e-3)


class Died(BaseException):
    """Simulates a kill."""


class Killer(Silent):
    def epoch(self, record):
        raise Died


def test_a_run_resumes_to_the_same_weights(images, tmp_path):
    given = options(images, accumulate=4, epochs=3, ema=0.9, posterior="vq", **{"posterior.num_codes": 8})
    whole = vaekit.train(**given, out=tmp_path / "whole")
    with pytest.raises(Died):
        vaekit.train(**given, out=tmp_path / "parts", reporter=Killer())
    parts = vaekit.resume(tmp_path / "parts")
    for name, tensor in load_file(whole.folder.last).items():
        assert torch.equal(tensor, load_file(parts.folder.last)[name]), name


def test_swept_models_are_trained_one_after_another(images, tmp_path):
    over, given = {"seed": (0, 1)}, options(images, accumulate=4)
    with pytest.raises(UsageError, match="cannot be stacked") as raised:
        vaekit.sweep(over=over, **given, stack="on", out=tmp_path / "on")
    assert "--accumulate" in str(raised.value.given)
    vaekit.sweep(over=over, **given, out=tmp_path / "auto")
    assert not any(group["stacked"] for group in json.loads((tmp_path / "auto" / "sweep.json").read_text())["groups"])
    with pytest.raises(UsageError, match="cannot be accumulated"):
        vaekit.sweep(over={"loss": ["kl", "mmd"]}, **given, out=tmp_path / "refused")


def test_processes_average_their_gradients_once_per_step(images, tmp_path):
    step = step_of(images, accumulate=4)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        step.forward, averaged = nn.parallel.DistributedDataParallel(step.objective), []

        def average(state, bucket):
            averaged.append(bucket.index())
            future = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        step.forward.register_comm_hook(None, average)
        step.objective.train()
        for reading in step.batches.readings(0):
            averaged.clear()
            step(reading)
            assert averaged == [0]
        step.forward = step.objective
    finally:
        torch.distributed.destroy_process_group()


def saved_bytes(step):
    """Return the peak size in bytes of the tensors that a step saves for its backward passes."""
    kept, most = {}, 0

    class Token:
        """Represents a saved tensor; it dies with the graph."""

        def __init__(self, tensor):
            nonlocal most
            self.tensor, self.place = tensor, tensor.data_ptr()
            kept[id(self)] = (self.place, tensor.numel() * tensor.element_size())
            most = max(most, sum(dict(kept.values()).values()))

        def __del__(self):
            del kept[id(self)]

    own = {parameter.data_ptr() for parameter in step.objective.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: tensor if tensor.data_ptr() in own else Token(tensor),
        lambda token: token.tensor if isinstance(token, Token) else token,
    ):
        step(next(step.batches.readings(0)))
    return most


def test_activations_of_a_part_take_a_part_of_the_memory(images):
    convolutional = {"encoder": "cnn", "decoder": "cnn", "encoder.channels": (16, 16), "decoder.channels": (16, 16)}
    whole, parts = (saved_bytes(step_of(images, **convolutional, accumulate=number)) for number in (1, 8))
    assert whole > 16 * 16 * 8 * 8 * 4  # at least the first feature map
    assert parts == pytest.approx(whole / 8, rel=0.05)


def test_the_benchmark_times_all_parts(images):
    given = options(images, accumulate=4, posterior="vq", **{"posterior.num_codes": 8})
    for name in ("batch_size", "device", "compile"):
        del given[name]
    settings = {"batch_sizes": (16,), "devices": ("cpu",), "tasks": ("train",), "seconds": 0.05}
    (row,), (whole,) = (throughput(**{**given, "accumulate": number}, **settings)["rows"] for number in (4, 1))
    assert row["flops"] == whole["flops"]
    assert row["bytes"] > whole["bytes"]  # the weights are read for each part
    assert all(spent > 0 for spent in row["parts"].values())


def test_the_trainer_refuses_before_it_trains(images, tmp_path):
    with pytest.raises(UsageError, match="'mmd'"):
        vaekit.train(**options(images, loss="mmd", accumulate=2), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
