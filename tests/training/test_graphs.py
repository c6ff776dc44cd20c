"""CUDA's requirements on a step, tested without CUDA: `tape` emulates graphs, and meta tensors emulate tensors on a GPU."""

from __future__ import annotations

import gc
import os
import signal
import weakref

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small import PARTS, fitting_loss, fitting_posterior, fitting_prior, small_parts
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from training.tape import record

import vaekit
from vaekit import roles
from vaekit.compute import graphs
from vaekit.compute.graphs import Replay
from vaekit.compute.process import Interrupted
from vaekit.errors import UsageError
from vaekit.model.assembly import assemble, build_objective, build_vae
from vaekit.specs.options import build_spec
from vaekit.store.folder import RunFolder
from vaekit.store.record import load_splits
from vaekit.streams import RecordableStreams, Streams
from vaekit.training.checks import check_data
from vaekit.training.hardware import fit_to_machine
from vaekit.training.step import Step
from vaekit.training.trainer import Trainer


@pytest.fixture
def images(tmp_path):
    path, rng = tmp_path / "images.npz", np.random.default_rng(0)
    smooth = rng.random((120, 4, 4, 3)).repeat(4, 1).repeat(4, 2)
    np.savez(path, images=(255 * smooth).astype(np.uint8), labels=rng.integers(3, size=120))
    np.savez(path.with_name("counts.npz"), counts=rng.poisson(3, (120, 5)), labels=rng.integers(3, size=120))
    return path


def options(images, **more):
    fixed = {"latent_dim": 3, "batch_size": 16, "epochs": 2, "threads": 1, "device": "cpu", "pictures": "none"}
    networks = {"encoder.hidden": (8,), "decoder.hidden": (8,)}
    if {"encoder", "decoder"} & set(more):
        networks = {}
    if roles.likelihoods.get(more.get("likelihood", "bce")).scores == "counts":
        images = images.with_name("counts.npz")
    return {"dataset": "array", "dataset.path": str(images), "compile": "graph", **fixed, **networks, **more}


def kinds():
    """Every built-in component used in a step, in a small model."""
    for registry in PARTS:
        for kind in registry.kinds():
            yield pytest.param(
                small_parts(
                    {
                        "likelihood": "bce",
                        "posterior": fitting_posterior(registry.role, kind),
                        **fitting_prior(registry.role, kind),
                        **fitting_loss(registry.role, kind),
                        registry.role: kind,
                    }
                ),
                id=f"{registry.role}-{kind}",
            )


LDM = {"channels": (4, 8), "checkpointing": True}
SETTINGS = [
    {"loss": "beta", "loss.beta": "linear(0, 4, 1.5)"},
    {"grad_clip": 0.1, "weight_decay": 0.1},
    {"augment.rotate": 20, "augment.brightness": 0.2},
    {"augment.rotate": 20, "augment.target": "original", "likelihood": "bce", "binarize": "dynamic"},
    {"precision": "bf16"},
    {"ema": 0.9},
    {"accumulate": 2},
    {"loss": ("kl", "adversarial"), "adversarial.channels": (4,), "adversarial.adaptive": True, "accumulate": 2},
    {
        "encoder": "ldm",
        "decoder": "ldm",
        "latent_stride": 2,
        **{f"{role}.{name}": value for role in ("encoder", "decoder") for name, value in LDM.items()},
    },
]


def weights(run):
    return load_file(run.path / "checkpoints" / "last.safetensors")


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("given", [*kinds(), *SETTINGS])
def test_replayed_steps_equal_eager_ones(images, tmp_path, monkeypatch, given):
    replays = []
    monkeypatch.setattr(graphs, "record", lambda *given: replays.append(given) or record(*given))
    replayed = vaekit.train(**options(images, **given), out=tmp_path / "replayed")
    assert len(replays) == 1
    monkeypatch.setattr(graphs, "WARM_UP", 10**9)  # the same step, but never recorded
    taken = vaekit.train(**options(images, **given), out=tmp_path / "taken")
    for name, tensor in weights(taken).items():
        assert torch.equal(tensor, weights(replayed)[name]), name


@pytest.mark.usefixtures("on_cpu")
def test_a_replayed_run_resumes_to_the_same_weights(images, tmp_path, monkeypatch):
    given = options(images, ema=0.9)
    whole = vaekit.train(**given, out=tmp_path / "whole")
    step = Step.__call__

    def interrupted(self, reading):
        if reading.number == 8:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, reading)

    monkeypatch.setattr(Step, "__call__", interrupted)
    with pytest.raises(Interrupted):
        vaekit.train(**given, out=tmp_path / "parts")
    monkeypatch.setattr(Step, "__call__", step)
    parts = vaekit.resume(tmp_path / "parts")
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(parts)[name]), name


@pytest.mark.usefixtures("on_cpu")
def test_a_replayed_stack_equals_its_models_alone(images, tmp_path):
    given = options(images, loss="beta", grad_clip=1.0, ema=0.9)
    stacked = vaekit.sweep(over={"beta": (1.0, 4.0), "lr": (1e-3, 2e-3)}, **given, stack="on", out=tmp_path / "stacked")
    alone = vaekit.sweep(over={"beta": (1.0, 4.0), "lr": (1e-3, 2e-3)}, **given, stack="off", out=tmp_path / "alone")
    for mine, theirs in zip(stacked, alone, strict=True):
        for own, other in zip(mine.metrics(), theirs.metrics(), strict=True):
            assert own["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)


@pytest.mark.usefixtures("on_cpu")
def test_a_replay_draws_like_the_function_and_refuses_other_inputs():
    streams, plain = RecordableStreams(0), Streams(0)

    def draw(pair, number):
        return pair[0] + torch.rand(3, generator=streams.generator("noise", number))

    replay, x = Replay(draw, [streams]), torch.zeros(3)
    for number in range(graphs.WARM_UP + 4):
        expected = number + torch.rand(3, generator=plain.generator("noise", number))
        assert torch.equal(replay(number, (x + number, None), number), expected)
    for pair in [(x[:1], None), (None, None), (x, x), (x, 1), (x,)]:
        with pytest.raises(ValueError, match="do not match the recorded ones"):
            replay(0, pair, 0)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("function", [lambda x: x * x.sum().item(), lambda x: x * x.new_tensor(2.0), lambda x: x[x > 0]])
def test_the_emulation_rejects_synchronisation(function):
    replay = Replay(function)
    for number in range(graphs.WARM_UP):
        replay(number, torch.ones(2))
    with pytest.raises(RuntimeError, match="not permitted"):
        replay(graphs.WARM_UP, torch.ones(2))


def test_graphs_are_refused_on_unsupported_devices(images, tmp_path):
    with pytest.raises(UsageError, match="only CUDA"):
        vaekit.train(**options(images), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("on_cpu")
def test_a_replaying_trainer_is_freed_with_its_last_reference(images, tmp_path):
    """Otherwise, its graph would hold GPU memory until garbage collection."""
    spec = fit_to_machine(build_spec({}, options(images, **{"augment.rotate": 5}, likelihood="bce", binarize="dynamic")))
    splits = load_splits(spec)
    trainer = Trainer(spec, assemble(spec, splits), splits, RunFolder.create(spec, tmp_path / "run"))
    for reading in trainer.step.batches.readings(0):
        trainer.step(reading)
    assert trainer.step.replay is not None
    gc.collect()
    gc.disable()
    try:
        held = weakref.ref(trainer.step)
        del trainer
        assert held() is None
    finally:
        gc.enable()


@pytest.mark.gpu
@pytest.mark.parametrize("given", [*kinds(), *SETTINGS])
def test_replayed_steps_on_a_gpu_equal_eager_ones(images, tmp_path, given):
    given = options(images, **{**given, "device": "cuda"})
    plain = vaekit.train(**given | {"compile": "off"}, out=tmp_path / "plain")
    chosen = vaekit.train(**given | {"compile": "auto"}, out=tmp_path / "chosen")
    assert chosen.spec.train.compile == "graph"
    for mine, theirs in zip(chosen.metrics(), plain.metrics(), strict=True):
        for name in ("train_loss", "validation_loss"):
            np.testing.assert_allclose(mine[name], theirs[name], rtol=2e-3, err_msg=name)


class OnGPU(torch.Generator):
    """A generator that claims to be on a GPU."""

    device = torch.device("cuda", 0)


@pytest.fixture
def gpu(monkeypatch):
    """A context in which tensors have no data, so that they can be on a GPU; backward would need a real one."""
    try:
        with FakeTensorMode():
            torch.ones(1).to("cuda")
    except RuntimeError:
        pytest.skip("this version of torch wants a GPU to move tensors without data to it")

    def generator(self, stream, step=0, device="cpu"):
        return (OnGPU if torch.device(device).type == "cuda" else torch.Generator)()

    def to(self, device=None, memory_format=torch.contiguous_format):
        del memory_format  # of tensors without data
        for module in self.modules():
            for tensors, make in ((module._parameters, nn.Parameter), (module._buffers, torch.Tensor.detach)):
                for name, tensor in tensors.items():
                    tensors[name] = None if tensor is None else make(tensor.detach().to(device or tensor.device))
        return self

    monkeypatch.setattr(Streams, "generator", generator)
    monkeypatch.setattr(nn.Module, "to", to)
    return FakeTensorMode(allow_non_fake_inputs=True)


UNREAL = {"precision", "adversarial.adaptive"}
"""What tensors without data do not support: autocast, and `torch.func.grad`, which looks for a real device."""


@pytest.mark.parametrize("given", [*kinds(), *(each for each in SETTINGS if not UNREAL & set(each))])
def test_a_step_neither_mixes_devices_nor_reads_values(images, tmp_path, monkeypatch, given, gpu):
    spec = fit_to_machine(build_spec({}, options(images, **given) | {"compile": "off"}))
    splits = load_splits(spec)
    assert not splits.train.is_binary  # which is looked up before the first step
    assert splits.fingerprint  # and so are these
    assert splits.facts
    vae = build_vae(spec.model, splits.facts)
    check_data(spec, vae.likelihood, splits)
    monkeypatch.setattr("vaekit.training.trainer.check_data", lambda *_: None)
    spec = spec.model_copy(update={"train": spec.train.model_copy(update={"device": "cuda"})})

    def backward(total):
        assert (total.device.type, total.shape, total.requires_grad) == ("cuda", (), True)
        for parameter in trainer.step.objective.parameters():
            parameter.grad = torch.empty_like(parameter)

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    objective = build_objective(spec.model, vae, num_data=len(splits.train), num_classes=splits.facts.num_classes)
    with gpu:
        trainer = Trainer(spec, objective, splits, RunFolder.create(spec, tmp_path / "run"))
        for reading in trainer.step.batches.readings(0):
            trainer.meter.add(trainer.step(reading))
    assert reading.number == trainer.step.steps_per_epoch - 1
    assert {tensor.device.type for tensor in (reading.positions, trainer.meter.sums, *trainer.step.objective.parameters())} == {
        "cuda"
    }


@pytest.mark.parametrize("function", [lambda x: x @ torch.ones(3, 3), lambda x: x + torch.ones(3), lambda x: x.sum().item()])
def test_tensors_without_data_fail_as_on_a_gpu(function, gpu):
    with gpu, pytest.raises(RuntimeError, match=r"same device|different devices|_local_scalar_dense"):
        function(torch.ones(3, 3, device="cuda"))
