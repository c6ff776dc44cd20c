"""Models trained together equal those trained separately."""

import gc
import json
import math
import os
import signal
import weakref
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import vaekit
from vaekit import roles
from vaekit.components.losses.kl import KL
from vaekit.compute.process import Interrupted
from vaekit.data import Splits, TensorImages
from vaekit.data.facts import Facts
from vaekit.errors import CheckpointError, DataError, UsageError, VaekitError
from vaekit.model.assembly import assemble, build_objective, build_vae
from vaekit.model.objective import Objective, Reconstruction
from vaekit.specs.options import build_spec
from vaekit.store.record import load_splits
from vaekit.sweeps import grouping
from vaekit.sweeps.grouping import Grouping
from vaekit.sweeps.space import Range, combinations, read_over
from vaekit.sweeps.stack import StackedStep, difference, form, refusal
from vaekit.sweeps.stacked_training import Stack
from vaekit.training.hardware import fit_to_machine
from vaekit.training.progress import Silent
from vaekit.training.step import Step
from vaekit.training.trainer import Trainer


def options(images, **more):
    return {
        "dataset": "array",
        "dataset.path": str(images),
        "encoder.hidden": (16,),
        "decoder.hidden": (16,),
        "likelihood": "bce",
        "binarize": "dynamic",
        "latent_dim": 3,
        "batch_size": 16,
        "epochs": 2,
        "threads": 1,
        "device": "cpu",
        "pictures": "none",
        **more,
    }


def planned(specs, splits, stack):
    """Return the groups and notes of models on the same data."""
    grouping = Grouping(stack, lambda number: assemble(specs[number], splits))
    for spec in specs:
        grouping.add(spec, assemble(spec, splits))
    return grouping.groups()


def without(name, given):
    return {key: value for key, value in given.items() if key != name}


def alone(images, run, over):
    """Train the model of one run of a sweep alone."""
    return vaekit.train(**options(images, **over), out=run.path.parent / f"alone-{run.path.name}")


def assert_close(together, single, *, atol):
    first, second = (load_file(run.path / "checkpoints" / "last.safetensors") for run in (together, single))
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")
    assert [r.keys() for r in together.metrics()] == [r.keys() for r in single.metrics()]
    assert together.evaluation().keys() == single.evaluation().keys()
    assert together.spec == single.spec


@pytest.mark.parametrize(
    ("loss", "over"),
    [
        ("beta", {"beta": (1.0, 4.0), "seed": (0, 5)}),
        ("beta", {"beta": ("linear(0, 1, 1)", "linear(2, 4, 1.5)"), "free_bits": (0.1, 0.3)}),
        ("tc", {"tc.beta": (2.0, 8.0), "lr": (1e-3, 1e-2)}),
        ("capacity", {"capacity.gamma": (1.0, 30.0), "weight_decay": (0.0, 0.3), "grad_clip": (None, 5.0)}),
        ("kl", {"seed": (0, 1, 2), "schedule": ("cosine", "constant")}),
        ("kl", {"warmup_steps": (0, 5), "ema": (None, 0.5)}),
        ("kl", {"betas": ((0.5, 0.9),), "eps": (1e-2,), "seed": (0, 1)}),
        ("kl", {"schedule": ("step",), "lr_milestones": ((1,), (2,)), "lr_gamma": (0.1, 0.5)}),
    ],
)
@pytest.mark.usefixtures("double")
def test_stacked_models_equal_those_trained_alone_in_float64(images, tmp_path, loss, over):
    runs = vaekit.sweep(over=over, stack="on", out=tmp_path / "sweep", **options(images, loss=loss))
    summary = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert all(group["stacked"] for group in summary["groups"])
    for run, point in zip(runs, combinations(over, {}), strict=True):
        single = alone(images, run, {"loss": loss, **point})
        assert_close(run, single, atol=1e-10)  # some 14 steps of Adam, which divides by the gradient's own size
        assert run.evaluation()["loss"] == pytest.approx(single.evaluation()["loss"], rel=1e-10)


def test_models_with_different_moments_form_separate_stacks(images, tmp_path):
    over = {"betas": ((0.9, 0.999), (0.5, 0.9)), "seed": (0, 1)}
    runs = vaekit.sweep(over=over, stack="on", out=tmp_path / "sweep", **options(images))
    summary = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert [(group["numbers"], group["stacked"]) for group in summary["groups"]] == [([0, 1], True), ([2, 3], True)]
    assert summary["notes"] == ["not a single stack: betas differs"]
    assert runs[3].evaluation()["loss"] == pytest.approx(
        alone(images, runs[3], {"betas": (0.5, 0.9), "seed": 1}).evaluation()["loss"]
    )


@pytest.mark.parametrize("encoder", ["cnn", "resnet"])
@pytest.mark.usefixtures("double")
def test_stacked_convolutions_equal_those_trained_alone(images, tmp_path, encoder):
    given = options(images, encoder=encoder, decoder="mlp", epochs=1, **{"encoder.channels": (4, 8)})
    del given["encoder.hidden"]
    (_, run) = vaekit.sweep(over={"seed": (0, 1)}, stack="on", out=tmp_path / "sweep", **given)
    single = vaekit.train(**given, seed=1, out=tmp_path / "alone")
    assert_close(run, single, atol=1e-8)


def test_stacked_models_have_the_losses_of_those_trained_alone_in_float32(images, tmp_path):
    over = {"beta": (1.0, 4.0), "seed": (0, 5)}
    runs = vaekit.sweep(over=over, stack="on", out=tmp_path / "sweep", **options(images, loss="beta"))
    for run, point in zip(runs, combinations(over, {}), strict=True):
        single = alone(images, run, {"loss": "beta", **point})
        for ours, theirs in zip(run.metrics(), single.metrics(), strict=True):
            assert ours["validation_loss"] == pytest.approx(theirs["validation_loss"], rel=1e-5)
            assert ours["lr"] == theirs["lr"]


@pytest.mark.slow
def test_a_compiled_stack_equals_models_trained_alone(images, tmp_path):
    over = {"beta": (1.0, 4.0), "seed": (0, 5)}
    given = options(images, loss="beta", grad_clip=20.0)
    runs = vaekit.sweep(over=over, stack="on", compile="on", out=tmp_path / "sweep", **given)
    for run, point in zip(runs, combinations(over, {}), strict=True):
        single = alone(images, run, {"loss": "beta", "grad_clip": 20.0, **point})
        assert run.evaluation()["loss"] == pytest.approx(single.evaluation()["loss"], rel=1e-4)


def test_a_run_of_a_sweep_is_a_run(images, tmp_path):
    given = options(images, pictures="auto")
    (run, _) = vaekit.sweep(over={"seed": (0, 1)}, stack="on", out=tmp_path / "sweep", **given)
    single = vaekit.train(**given, out=tmp_path / "alone")
    ours, theirs = ({p.relative_to(r.path).as_posix() for p in r.path.rglob("*") if p.is_file()} for r in (run, single))
    assert ours == theirs
    assert run.evaluate()["loss"] == pytest.approx(run.evaluation()["loss"])
    assert vaekit.load(run.path).sample(2).shape == (2, 1, 9, 7)
    with pytest.raises(UsageError, match="is complete"):
        vaekit.resume(run.path)


def test_an_interrupted_sweep_leaves_runs_that_resume(images, tmp_path, monkeypatch):
    step, taken = StackedStep.__call__, []

    def stop_at_ten(self, reading):
        taken.append(reading.number)
        if len(taken) == 10:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, reading)

    with monkeypatch.context() as patch:
        patch.setattr(StackedStep, "__call__", stop_at_ten)
        with pytest.raises(Interrupted):
            vaekit.sweep(over={"seed": (0, 1)}, stack="on", out=tmp_path / "sweep", **options(images, epochs=3))
    for seed, path in enumerate(sorted((tmp_path / "sweep").glob("*/"))):
        run = vaekit.resume(path)
        single = alone(images, run, {"seed": seed, "epochs": 3})
        assert [r["epoch"] for r in run.metrics()] == [1, 2, 3]
        assert run.evaluation()["loss"] == pytest.approx(single.evaluation()["loss"], rel=1e-5)


@pytest.mark.parametrize("stack", ["on", "off"])
def test_ctrl_c_after_a_models_last_step_ends_the_sweep(images, tmp_path, monkeypatch, stack):
    finish, finished = Trainer.finish, []

    def late(self):
        finished.append(self.folder.path.name)
        if len(finished) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return finish(self)

    monkeypatch.setattr(Trainer, "finish", late)
    over, given = {"encoder.hidden": ((8,), (16,)), "seed": (0, 1)}, options(images, epochs=1)
    del given["encoder.hidden"]
    with pytest.raises(Interrupted):
        vaekit.sweep(over=over, stack=stack, out=tmp_path / "sweep", **given)
    assert len(finished) == {"on": 2, "off": 1}[stack]  # the first stack, or model, was done
    assert len(vaekit.resume_sweep(tmp_path / "sweep")) == 4
    assert all("test" in row for row in rows_of(tmp_path / "sweep"))


def rows_of(folder):
    return json.loads((folder / "sweep.json").read_text())["runs"]


def losses_of(folder):
    return [row["test"]["loss"] for row in rows_of(folder)]


class Died(BaseException):
    """Simulates a kill: not caught, and nothing is saved."""


def die_at(patch, owner, name, call):
    """Let a method die at its n-th call."""
    method, calls = getattr(owner, name), []

    def hooked(*arguments, **keywords):
        calls.append(name)
        if len(calls) == call:
            raise Died
        return method(*arguments, **keywords)

    patch.setattr(owner, name, hooked)


@pytest.mark.parametrize(
    ("stack", "death", "epochs"),
    [
        ("off", (Step, "__call__", 20), [3, None]),  # in the second run's first epoch, before its first checkpoint
        ("off", (Trainer, "save", 3), [2, None]),  # the best weights, of the third epoch, are saved, its last are not
        ("off", (Trainer, "finish", 1), [3, None]),
        ("on", (StackedStep, "__call__", 10), [1, 1]),
        ("on", (Trainer, "save", 4), [2, 1]),  # one model has saved its second epoch, the other has not
        ("on", (Trainer, "finish", 2), [3, 3]),
    ],
)
def test_a_killed_sweep_resumes_to_the_same_result(images, monkeypatch, stack, death, epochs):
    folder = images.parent
    given = {"over": {"seed": (0, 1)}, "stack": stack, **options(images, epochs=3)}
    whole = vaekit.sweep(**given, out=folder / "whole")
    with monkeypatch.context() as patch:
        die_at(patch, *death)
        with pytest.raises(Died):
            vaekit.sweep(**given, out=folder / "parts")
    paths = sorted((folder / "parts").glob("*/"))
    found = [vaekit.Run(path).position()[0] if vaekit.Run(path).folder.last.exists() else None for path in paths]
    assert found == epochs
    parts = vaekit.resume_sweep(folder / "parts")
    assert [run.path for run in parts] == paths
    for ours, theirs in zip(parts, whole, strict=True):
        assert [record["epoch"] for record in ours.metrics()] == [1, 2, 3]
        assert ours.evaluation()["loss"] == pytest.approx(theirs.evaluation()["loss"], rel=1e-5)
    if stack == "off":
        assert losses_of(folder / "parts") == losses_of(folder / "whole")
    with pytest.raises(UsageError, match="all 2 runs are done"):
        vaekit.resume_sweep(folder / "parts")


def test_models_at_the_same_step_resume_in_one_stack_and_complete_runs_are_unchanged(images, tmp_path, monkeypatch):
    given = {"over": {"seed": (0, 1, 2), "latent_dim": (2, 3)}, "stack": "on", **without("latent_dim", options(images))}
    method, calls = StackedStep.__call__, []

    def step(self, *arguments):
        calls.append(self)
        if len(calls) == 20:  # six steps into the second stack
            os.kill(os.getpid(), signal.SIGINT)
        return method(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(StackedStep, "__call__", step)
        with pytest.raises(Interrupted) as stop:
            vaekit.sweep(**given, out=tmp_path / "sweep")
    assert stop.value.args == (str(tmp_path / "sweep"),)
    assert ["test" in row for row in rows_of(tmp_path / "sweep")] == [True, False] * 3
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").glob("*latent_dim=2/**/*.safetensors")}
    stacks, init = [], Stack.__init__
    monkeypatch.setattr(
        Stack, "__init__", lambda self, trainers, **more: stacks.append(len(trainers)) or init(self, trainers, **more)
    )
    vaekit.resume_sweep(tmp_path / "sweep")
    assert stacks == [3]
    assert all("test" in row for row in rows_of(tmp_path / "sweep"))
    assert done == {path: path.stat().st_mtime_ns for path in done}


@pytest.mark.parametrize("content", [None, "{"])
def test_a_folder_that_is_not_a_sweep_is_not_resumed(tmp_path, content):
    if content is not None:
        (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(CheckpointError, match="damaged" if content else "not the folder of a sweep"):
        vaekit.resume_sweep(tmp_path)


def full_disk(patch, images):
    from shutil import disk_usage

    patch.setattr("shutil.disk_usage", lambda path: disk_usage(path)._replace(free=10_000_000))
    return {}, VaekitError


CANNOT_BEGIN = {
    "value": lambda patch, images: ({"over": {"lr": (1e-3, -1.0)}}, UsageError),
    "batch": lambda patch, images: ({"over": {"batch_size": (16, 1000)}}, UsageError),
    "data": lambda patch, images: ({"dataset.path": str(images) + "x"}, DataError),
    "disk": full_disk,
    "range": lambda patch, images: ({"over": {"lr": Range(1e-4, 1e-2)}}, UsageError),
    "torchrun": lambda patch, images: (patch.setenv("WORLD_SIZE", "2") or {}, UsageError),
}


@pytest.mark.parametrize("reason", CANNOT_BEGIN)
def test_a_sweep_that_cannot_start_leaves_nothing(images, tmp_path, monkeypatch, reason):
    changed, error = CANNOT_BEGIN[reason](monkeypatch, images)
    given = {"over": {"seed": (0, 1)}, "stack": "off", **options(images), **changed}
    for name in given["over"]:
        given.pop(name, None)
    with pytest.raises(error):
        vaekit.sweep(**given, out=tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.usefixtures("fragile")
def test_a_model_that_diverges_stops_and_the_others_continue(images, tmp_path):
    given = options(images, loss="fragile", epochs=4)
    good, bad, other = vaekit.sweep(over={"weight": (0.5, 2.0, 1.0)}, stack="on", out=tmp_path / "sweep", **given)
    assert bad.evaluation() is None
    assert len(bad.metrics()) == 1
    rows = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["runs"]
    assert "not finite: loss, fragile at epoch 2, step 1" in rows[1]["error"]
    for run, weight in ((good, 0.5), (other, 1.0)):
        single = alone(images, run, {"loss": "fragile", "epochs": 4, "weight": weight})
        assert run.evaluation()["loss"] == pytest.approx(single.evaluation()["loss"], rel=1e-5)


def objective(**given):
    spec = build_spec({}, {"encoder.hidden": (8,), "decoder.hidden": (8,), "latent_dim": 2, **given})
    return build_objective(spec.model, build_vae(spec.model, Facts(data_shape=(1, 6, 6)), seed=0))


def test_models_stack_despite_different_buffers_but_not_other_attributes():
    base = objective(loss="beta", beta=1)
    assert difference(base, objective(loss="beta", beta=7)) is None
    assert "beta.beta is Number in one and Changing" in difference(base, objective(loss="beta", beta="linear(0, 4, 3)"))
    assert "shape" in difference(objective(), objective(latent_dim=3)) or "latent" in difference(
        objective(), objective(latent_dim=3)
    )
    assert "submodules" in difference(base, objective(loss="tc"))


def test_models_with_equal_partial_functions_are_stacked():
    one, other = objective(), objective()
    one.vae.decoder.scale, other.vae.decoder.scale = partial(torch.add, 1, alpha=2), partial(torch.add, 1, alpha=2)
    assert difference(one, other) is None
    for changed in (partial(torch.add, 1, alpha=3), partial(torch.add, 2, alpha=2), partial(torch.sub, 1, alpha=2), torch.add):
        other.vae.decoder.scale = changed
        assert "vae.decoder.scale is" in difference(one, other)


def test_an_objective_with_data_dependent_control_flow_is_refused():
    class Branching(vaekit.Loss):
        def forward(self, trace):
            return trace.kl if trace.kl.mean() > 0 else 2 * trace.kl

    usual = objective(loss="kl")
    assert refusal(usual) is None
    usual.losses["kl"] = Branching()
    assert "vmap does not support it" in refusal(usual)


def test_failure_to_stack_names_the_difference(images, tmp_path):
    with pytest.raises(UsageError, match="threads differs"):
        vaekit.sweep(over={"threads": (1, 2)}, stack="on", out=tmp_path / "sweep", **without("threads", options(images)))
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_of_steps_that_cannot_be_accumulated_does_not_start(images, tmp_path):
    with pytest.raises(UsageError, match="equal parts"):
        vaekit.sweep(over={"seed": (0, 1)}, accumulate=5, out=tmp_path / "sweep", **options(images))
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("given", "stacked", "compiled"),
    [
        ({"threads": 1}, True, False),
        ({"threads": 2}, True, False),
        ({"threads": 1, "encoder.hidden": (50_000,)}, False, False),
        ({"threads": 2, "encoder.hidden": (50_000,)}, True, False),
        ({"threads": 1, "encoder.hidden": (50_000,), "precision": "bf16"}, True, False),
        ({"threads": 1, "encoder.hidden": (50_000,), "batch_size": 64, "precision": "bf16"}, False, False),
        ({"threads": 1, "epochs": 10**6, "encoder.hidden": (64,)}, True, True),
        ({"threads": 2, "epochs": 10**6, "encoder.hidden": (64,)}, True, True),
        ({"threads": 2, "epochs": 10**6, "encoder.hidden": (64,), "compile": "off"}, True, False),
        ({"threads": 2, "encoder": "cnn"}, False, False),
    ],
)
def test_models_are_stacked_and_compiled_where_faster(images, monkeypatch, given, stacked, compiled):
    monkeypatch.setattr("vaekit.sweeps.grouping.has_cpp_compiler", lambda: True)
    specs = [fit_to_machine(build_spec({}, {**options(images), **given, "seed": seed})) for seed in range(4)]
    splits = roles.datasets.build(specs[0].data.dataset).load()
    groups, notes = planned(specs, splits, "auto")
    assert {(group.stacked, group.compiled) for group in groups} == {(stacked, compiled)}
    assert bool(notes) != stacked


def test_small_sweeps_run_sequentially_with_identical_results(images, tmp_path):
    reporter, lines = Silent(), []
    reporter.note = lines.append
    given = without("latent_dim", options(images))
    runs = vaekit.sweep(over={"latent_dim": (2, 3)}, out=tmp_path / "sweep", reporter=reporter, **given)
    single = vaekit.train(**options(images, latent_dim=2), out=tmp_path / "alone")
    assert (runs[0].path / "model.safetensors").read_bytes() == (single.path / "model.safetensors").read_bytes()
    assert "2 models, 0 of them stacked" in lines[0]
    assert [run.spec.model.latent_dim for run in runs] == [2, 3]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("beta=1,2.5", ("beta", ["1", "2.5"])),
        ("seed=0..3", ("seed", Range(0, 3))),
        ("lr=1e-4..1e-2:log", ("lr", Range(1e-4, 1e-2, log=True))),
        ("beta=.5..8", ("beta", Range(0.5, 8))),
        ("path=../a,../b", ("path", ["../a", "../b"])),
        ("latent-dim=2", ("latent_dim", ["2"])),
        ("encoder.hidden=512;256,128", ("encoder.hidden", ["512", "256,128"])),
    ],
)
def test_values_are_a_list_or_a_range(text, expected):
    assert read_over(text) == expected


@pytest.mark.parametrize(
    ("over", "given", "message"),
    [
        ({}, {}, "nothing"),
        ({"seed": ()}, {}, "none"),
        ({"seed": (1, 1)}, {}, "distinct values"),
        ({"lr": (1, 2)}, {"lr": 1}, "varied"),
    ],
)
def test_a_sweep_over_nothing_or_twice_is_refused(over, given, message):
    with pytest.raises(UsageError, match=message):
        combinations(over, given)


def test_each_model_has_its_own_best_epoch(images, tmp_path):
    given = options(images, epochs=4, schedule="constant")
    for run in vaekit.sweep(over={"lr": (1e-4, 0.3)}, stack="on", out=tmp_path / "sweep", **given):
        losses = [record["validation_loss"] for record in run.metrics()]
        assert run.evaluation()["epoch"] == int(np.argmin(losses)) + 1
        assert math.isfinite(min(losses))


class Lossy(torch.autograd.Function):
    """Squares; under vmap, the values are correct but the gradient is halved."""

    @staticmethod
    def forward(x):
        return x.square()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 2 * x * gradient

    @staticmethod
    def vmap(info, in_dims, x):
        y = x.square()
        return 0.5 * (y + y.detach()), in_dims[0]


def test_an_objective_with_wrong_stacked_gradients_is_refused():
    class CodeNorm(vaekit.Loss):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def forward(self, trace):
            return self.function(trace.z).sum(-1)

    vae, losses = objective(loss="kl").vae, {"reconstruction": Reconstruction(), "kl": KL()}
    assert refusal(Objective(vae, {**losses, "norm": CodeNorm(torch.square)})) is None
    usual = Objective(vae, {**losses, "norm": CodeNorm(Lossy.apply)})
    assert "gradients" in refusal(usual)
    assert all(parameter.grad is None for parameter in usual.parameters())


MAKING = [
    {},
    {"binarize": "static"},
    {"binarize": "dynamic"},
    {"binarize": "threshold"},
    {"binarize": "static", "dataset.memory_gb": 0.0},
    {"binarize": "dynamic", "dataset.memory_gb": 0.0, "workers": 1},
    {"augment.rotate": 20, "augment.flip": "both", "augment.brightness": 0.2, "binarize": "dynamic"},
    {"augment.scale": (0.8, 1.2), "augment.target": "original"},
    {"condition": "label"},
    {"loss": "iwae", "num_samples": 3},
    {"loss": ("kl", "mmd"), "prior": "mixture"},
    {"missing": "zeros", "likelihood": "mse"},
]


@pytest.fixture
def labelled(tmp_path):
    """A file of 120 labelled images of 9×7, and one of images with missing pixels."""
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (120, 9, 7), dtype=np.uint8), rng.integers(3, size=120)
    np.savez(tmp_path / "images.npz", images=pixels, labels=labels)
    np.save(tmp_path / "images.npy", pixels)
    np.save(tmp_path / "missing.npy", np.where(rng.random((120, 9, 7)) < 0.1, np.nan, pixels / 255).astype(np.float32))
    return tmp_path


def steps_of(folder, over, **given):
    """Steps of models for each point, on the same data."""
    name = "missing.npy" if "missing" in given else "images.npy" if "dataset.memory_gb" in given else "images.npz"
    given = {"binarize": "none"} | given
    specs = [fit_to_machine(build_spec({}, options(folder / name, **given | point))) for point in over]
    splits = load_splits(specs[0])
    return [Step(spec, assemble(spec, splits), splits) for spec in specs]


@pytest.mark.parametrize("given", MAKING, ids=str)
@pytest.mark.parametrize("seeds", [(0, 1, 5), (3, 0, 0), (2, 2)], ids=str)
def test_the_inputs_of_a_stack_are_those_of_its_models_alone(labelled, given, seeds):
    over = [{"seed": seed, "lr": 1e-3 * (1 + number)} for number, seed in enumerate(seeds)]
    stack, alone = StackedStep(steps_of(labelled, over, **given)), steps_of(labelled, over, **given)
    readings = zip(stack.batches.readings(1, 2), *(step.batches.readings(1, 2) for step in alone), strict=True)
    for together, *own in readings:
        joint = stack.inputs(together)
        for number, (step, reading) in enumerate(zip(alone, own, strict=True)):
            inputs = step.inputs(reading)

            def of_model(tensor, number=number):
                return tensor if stack.shared else tensor[number]

            for name in ("x", "target", "noise", "y"):
                theirs = getattr(inputs, name)
                mine = None if theirs is None else of_model(getattr(joint, name))
                assert theirs is None or torch.equal(mine.nan_to_num(-1.0), theirs.nan_to_num(-1.0)), name
            assert joint.draws.keys() == inputs.draws.keys()
            assert all(torch.equal(of_model(joint.draws[kind]), inputs.draws[kind]) for kind in inputs.draws)


@pytest.mark.parametrize("binarize", ["none", "static", "dynamic"])
def test_a_stack_of_any_size_gathers_a_batch_once(labelled, monkeypatch, binarize):
    gather, gathered = TensorImages.gather, []
    for num in (2, 7):
        stack = StackedStep(steps_of(labelled, [{"seed": seed} for seed in range(num)], binarize=binarize))
        reading = next(stack.batches.readings(0))
        stack.inputs(reading)  # binarises the source
        with monkeypatch.context() as patch:
            patch.setattr(TensorImages, "gather", lambda self, index: gathered.append(len(index)) or gather(self, index))
            stack.inputs(reading)
    assert gathered == [2 * 16, 7 * 16]


@pytest.mark.parametrize(
    ("over", "compared", "groups"),
    [("latent_dim", 19, 20), ("batch_size", 0, 20), ("lr", 19, 1), ("loss.beta", 19, 1)],
    ids=["other shapes", "other settings", "one stack", "one stack of several losses"],
)
def test_models_are_compared_with_those_like_them_and_not_in_all_pairs(over, compared, groups, monkeypatch):
    images = TensorImages(torch.zeros(40, 1, 4, 4, dtype=torch.uint8))
    splits, small = Splits(images, images, images), {"encoder.hidden": "4", "decoder.hidden": "4", "device": "cpu"}
    given = [{**small, "loss": "beta", "batch_size": 8, over: 1 + number} for number in range(20)]
    specs = [fit_to_machine(build_spec({}, each)) for each in given]
    calls = []
    monkeypatch.setattr(grouping, "difference", lambda one, other: calls.append(1) or difference(one, other))
    found, _ = planned(specs, splits, "on" if groups == 1 else "auto")
    assert (len(calls), len(found)) == (compared, groups)


@pytest.mark.parametrize(("name", "value"), [("activation", "relu"), ("hidden", "4,4"), ("normalization", "layer")])
def test_modules_without_a_difference_have_the_same_form(name, value):
    small = {"encoder": "mlp", "encoder.hidden": "4", "decoder": "mlp", "decoder.hidden": "4"}
    facts = Facts(data_shape=(1, 4, 4), value_range=(0, 1))
    one, same, other = (
        build_vae(build_spec({}, small | changed).model, facts, seed=seed)
        for changed, seed in (({}, 0), ({}, 1), ({f"encoder.{name}": value}, 0))
    )
    assert difference(one, same) is None
    assert form(one) == form(same)
    assert difference(one, other) is not None
    assert form(one) != form(other)


def test_a_sweep_takes_the_memory_of_one_model_at_a_time(images, tmp_path, monkeypatch):
    assembled, alive = [], []

    def counted(spec, splits):
        objective = assemble(spec, splits)
        assembled.append(weakref.ref(objective))
        gc.collect()
        found = [each() for each in assembled]
        alive.append(sum(each is not None and not next(each.parameters()).is_meta for each in found))
        return objective

    monkeypatch.setattr("vaekit.sweeps.grid.assemble", counted)
    runs = vaekit.sweep(
        over={"latent_dim": range(2, 5)}, stack="off", out=tmp_path / "sweep", **without("latent_dim", options(images))
    )
    assert len(runs) == 3
    assert max(alive) == 1


@pytest.mark.parametrize("over", ["latent_dim", "seed", "batch_size"])
def test_planning_keeps_at_most_one_objective_of_each_set_without_its_weights(images, over):
    built = []
    specs = [fit_to_machine(build_spec({}, {**options(images), over: number})) for number in range(2, 8)]
    splits = roles.datasets.build(specs[0].data.dataset).load()

    def build(number):
        objective = assemble(specs[number], splits)
        built.append(weakref.ref(objective))
        return objective

    grouping = Grouping("auto", build)
    for number, spec in enumerate(specs):
        grouping.add(spec, build(number))
    gc.collect()
    left = [each() for each in built]
    assert len(left) >= 6
    assert all(next(each.parameters()).is_meta for each in left if each is not None)
    assert sum(each is not None for each in left) <= 1
