"""The training loop: exactly resumable, unaffected by pictures, and explicit about NaN."""

import copy
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import vaekit
from vaekit import roles
from vaekit.compute.distributed import ProcessGroup
from vaekit.compute.process import Interrupted
from vaekit.data import Batches, Splits, TensorImages
from vaekit.data.facts import Facts
from vaekit.errors import CheckpointError, DataError, DivergenceError, UsageError, VaekitError
from vaekit.evaluation.evaluator import Evaluator
from vaekit.interfaces import Loss
from vaekit.model.assembly import assemble, build_objective, build_vae, example_inputs
from vaekit.specs.options import build_spec
from vaekit.store import checkpoint
from vaekit.streams import Streams
from vaekit.training import snapshots
from vaekit.training.checks import check_data
from vaekit.training.hardware import fit_to_data
from vaekit.training.snapshots import Snapshots
from vaekit.training.step import Step


@pytest.fixture
def images(tmp_path):
    """A file of 120 images of 9×7, grey."""
    path = tmp_path / "images.npy"
    rng = np.random.default_rng(0)
    smooth = rng.random((120, 3, 3)).repeat(3, 1).repeat(3, 2)[:, :, :7]
    np.save(path, (255 * smooth).astype(np.uint8))
    return path


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
        "epochs": 3,
        "threads": 1,
        "device": "cpu",
        **more,
    }


class Recorder:
    """Records a trainer's messages; optionally interrupts it."""

    def __init__(self):
        self.events = []

    def start(self, start):
        self.events.append(("start", start))

    def step(self, epoch, step, images_per_second, means):
        self.events.append(("step", step))

    def epoch(self, record):
        self.events.append(("epoch", record))

    def end(self, evaluation):
        self.events.append(("end", evaluation))

    def note(self, line):
        self.events.append(("note", line))


def weights(run):
    return load_file(run.path / "checkpoints" / "last.safetensors")


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_a_run_writes_the_documented_files(images, tmp_path):
    recorder = Recorder()
    run = vaekit.train(**options(images, pictures=(1, 3)), out=tmp_path / "run", reporter=recorder)
    names = {path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if path.is_file()}
    assert names == {
        "spec.yaml",
        "model.safetensors",
        "metrics.jsonl",
        "evaluation.json",
        "training.gif",
        "checkpoints/last.safetensors",
        "checkpoints/best.safetensors",
        "reconstructions/epoch-0001.png",
        "reconstructions/epoch-0003.png",
        "samples/epoch-0001.png",
        "samples/epoch-0003.png",
    }
    assert [kind for kind, _ in recorder.events if kind != "step"] == ["start", "epoch", "epoch", "epoch", "end"]
    assert recorder.events[-1][1] == run.evaluation()


def test_metrics_have_their_documented_fields(images, tmp_path):
    run = vaekit.train(**options(images, loss="tc"), out=tmp_path / "run")
    for number, record in enumerate(run.metrics(), 1):
        assert record["epoch"] == number
        for name in ("loss", "reconstruction", "kl", "elbo", "total_correlation", "mutual_information", "dimension_wise_kl"):
            assert np.isfinite(record[f"train_{name}"])
            assert np.isfinite(record[f"validation_{name}"])
        assert record["validation_elbo"] == pytest.approx(-record["validation_reconstruction"] - record["validation_kl"])
        assert sum(record["validation_kl_per_latent"]) == pytest.approx(record["validation_kl"])
        assert record["validation_active_units"] in range(4)
        assert record["images_per_second"] > 0


def test_a_resolved_spec_repeats_the_run_to_the_bit(images, tmp_path):
    networks = {"encoder": "cnn", "encoder.channels": (4, 8), "encoder.hidden": (8,), "decoder": "mlp"}
    first = vaekit.train(**options(images) | networks, out=tmp_path / "first")
    second = vaekit.train(first.path / "spec.yaml", out=tmp_path / "second")
    assert second.spec == first.spec
    assert_same_weights(weights(first), weights(second))
    assert (first.path / "model.safetensors").read_bytes() == (second.path / "model.safetensors").read_bytes()


def test_another_seed_gives_other_weights(images, tmp_path):
    first, other = (weights(vaekit.train(**options(images, seed=seed), out=tmp_path / str(seed))) for seed in (0, 1))
    assert not any(torch.equal(first[name], other[name]) for name in first if name.startswith("objective."))


def test_pictures_do_not_change_the_weights(images, tmp_path):
    runs = [vaekit.train(**options(images, pictures=p), out=tmp_path / str(i)) for i, p in enumerate(["none", "auto", (2,)])]
    for other in runs[1:]:
        assert_same_weights(weights(runs[0]), weights(other))
    assert not (runs[0].path / "training.gif").exists()


def test_the_global_generator_of_torch_is_not_used(images, tmp_path):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = vaekit.train(**options(images), out=tmp_path / "first")
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    second = vaekit.train(**options(images), out=tmp_path / "second")
    assert_same_weights(weights(first), weights(second))


def interrupt_at(monkeypatch, number):
    """Send this process Ctrl-C while it takes training step ``number``."""
    step = Step.__call__

    def interrupted(self, reading):
        if reading.number == number:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, reading)

    monkeypatch.setattr(Step, "__call__", interrupted)


@pytest.mark.parametrize("more", [{}, {"encoder": "cnn", "encoder.channels": (3, 4), "decoder.channels": (4, 3), "ema": 0.9}])
def test_a_run_interrupted_within_an_epoch_resumes_to_the_same_bits(images, more, tmp_path, monkeypatch):
    given = options(images, **more)
    whole = vaekit.train(**given, out=tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 8)
        with pytest.raises(Interrupted):
            vaekit.train(**given, out=tmp_path / "parts")
    position = checkpoint.load(tmp_path / "parts" / "checkpoints" / "last.safetensors")[1].state
    assert (position["epoch"], position["step"]) == (1, 3)
    recorder = Recorder()
    parts = vaekit.resume(tmp_path / "parts", reporter=recorder)
    assert [note for note in recorder.events[0][1].notes if "average" not in note and "--ema" not in note] == []
    assert (recorder.events[0][1].notes == ()) == ("ema" not in given)
    assert_same_weights(weights(whole), weights(parts))
    assert (whole.path / "training.gif").read_bytes() == (parts.path / "training.gif").read_bytes()
    timing = {"seconds", "epoch_seconds", "images_per_second"}
    for mine, theirs in zip(parts.metrics(), whole.metrics(), strict=True):
        assert {k: v for k, v in mine.items() if k not in timing} == {k: v for k, v in theirs.items() if k not in timing}


def test_a_killed_run_resumes_to_the_same_bits(images, tmp_path):
    """kill -9 at an arbitrary moment; checkpoints are frequent, the rest is repeated."""
    more = {"epochs": 40, "checkpoint_seconds": 0.05, "pictures": "none"}
    whole = vaekit.train(**options(images, **more), out=tmp_path / "whole")
    given = options(images, **more)
    code = f"import vaekit; vaekit.train(**{given!r}, out={str(tmp_path / 'killed')!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    metrics = tmp_path / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 5):
        assert process.poll() is None, "training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert len(metrics.read_text().splitlines()) < 40
    killed = vaekit.resume(tmp_path / "killed")
    assert_same_weights(weights(whole), weights(killed))
    assert [r["epoch"] for r in killed.metrics()] == list(range(1, 41))


def test_ctrl_c_at_the_end_of_a_run_stops_the_next(images, tmp_path):
    class Late(Recorder):
        def end(self, evaluation):
            super().end(evaluation)
            os.kill(os.getpid(), signal.SIGINT)

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    late = Late()
    with pytest.raises(KeyboardInterrupt):
        vaekit.train(**options(images, pictures="none"), out=tmp_path / "run", reporter=late)
    run = vaekit.Run(tmp_path / "run")
    assert run.is_complete()
    assert late.events[-1] == ("end", run.evaluation())
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_signals_ignored_by_the_process_do_not_stop_a_run(images, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupt_at(monkeypatch, 8)
    try:
        assert vaekit.train(**options(images, pictures="none"), out=tmp_path / "run").is_complete()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_that_was_evaluated_while_interrupted_still_resumes(images, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 8)
        with pytest.raises(Interrupted):
            vaekit.train(**options(images), out=tmp_path / "run")
    vaekit.Run(tmp_path / "run").evaluate()
    assert len(vaekit.resume(tmp_path / "run").metrics()) == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_run_from_an_unavailable_device_resumes_on_the_requested_one(images, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 8)
        with pytest.raises(Interrupted):
            vaekit.train(**options(images), out=tmp_path / "run")
    spec = tmp_path / "run" / "spec.yaml"
    there = spec.read_text().replace("device: cpu", "device: cuda").replace("compile: off", "compile: graph")
    spec.write_text(there.replace("compile: 'off'", "compile: graph"))
    assert vaekit.Run(tmp_path / "run").spec.train.compile == "graph"
    for device in (None, "nowhere"):
        with pytest.raises(UsageError, match="torch found no"):
            vaekit.resume(tmp_path / "run", device=device)
    assert len(vaekit.resume(tmp_path / "run", device="auto").metrics()) == 3


def test_a_run_is_trained_by_one_process_at_a_time(images, tmp_path, monkeypatch):
    interrupt_at(monkeypatch, 10)
    with pytest.raises(Interrupted):
        vaekit.train(**options(images), out=tmp_path / "run")
    monkeypatch.undo()
    code = "import sys; from vaekit.store.folder import RunFolder; run = RunFolder(sys.argv[1]); run.acquire(); print(), input()"
    command = [sys.executable, "-u", "-c", code, str(tmp_path / "run")]
    before = weights(vaekit.Run(tmp_path / "run"))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(UsageError, match="another process is training"):
            vaekit.resume(tmp_path / "run")
        other.kill()
    for name, tensor in weights(vaekit.Run(tmp_path / "run")).items():
        assert torch.equal(tensor, before[name]), name
    assert len(vaekit.resume(tmp_path / "run").metrics()) == 3


def test_a_run_that_cannot_start_is_released(images, tmp_path, monkeypatch):
    interrupt_at(monkeypatch, 10)
    with pytest.raises(Interrupted):
        vaekit.train(**options(images), out=tmp_path / "run")
    monkeypatch.undo()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(VaekitError, match="too full") as kept:  # as a notebook keeps errors and their frames
        vaekit.resume(tmp_path / "run")
    monkeypatch.undo()
    assert len(vaekit.resume(tmp_path / "run").metrics()) == 3
    assert kept.value.given


def test_evaluating_other_splits_keeps_the_test_metrics(images, tmp_path):
    run = vaekit.train(**options(images), out=tmp_path / "run")
    with_likelihood = run.evaluate(samples=10)
    validation = run.evaluate(split="validation")
    assert run.evaluation() == with_likelihood == run.evaluate()
    assert json.loads((run.path / "evaluation-validation.json").read_text()) == validation != with_likelihood
    assert "log_likelihood" not in validation


def test_a_run_of_few_steps_is_noted(images, tmp_path):
    recorder = Recorder()
    vaekit.train(**options(images), out=tmp_path / "run", reporter=recorder)
    assert any("only 18 steps" in note for note in recorder.events[0][1].notes)


def test_a_complete_run_is_not_resumed(images, tmp_path):
    run = vaekit.train(**options(images, epochs=1), out=tmp_path / "run")
    with pytest.raises(UsageError, match="is complete"):
        vaekit.resume(run.path)


def test_another_thread_count_is_noted_on_resume(images, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        with pytest.raises(Interrupted):
            vaekit.train(**options(images), out=tmp_path / "run")
    spec = tmp_path / "run" / "spec.yaml"
    spec.write_text(spec.read_text().replace("threads: 1", "threads: 2"))
    recorder = Recorder()
    vaekit.resume(tmp_path / "run", reporter=recorder)
    assert "threads was 1, now 2: not bit-exact" in recorder.events[0][1].notes


def test_an_existing_run_is_never_overwritten(images, tmp_path):
    run = vaekit.train(**options(images, epochs=1), out=tmp_path / "run")
    before = (run.path / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="already exists"):
        vaekit.train(**options(images, epochs=1, seed=3), out=tmp_path / "run")
    assert (run.path / "model.safetensors").read_bytes() == before


def test_the_best_weights_are_those_of_the_lowest_validation_objective(images, tmp_path):
    run = vaekit.train(**options(images, epochs=6, lr=0.05, schedule="constant"), out=tmp_path / "run")
    losses = [r["validation_loss"] for r in run.metrics()]
    best = int(np.argmin(losses)) + 1
    assert run.evaluation()["epoch"] == best
    assert [r["epoch"] for r in run.metrics() if r["best"]][-1] == best
    assert run.evaluate(split="validation")["loss"] == pytest.approx(min(losses), rel=1e-6)


def test_validation_uses_the_final_values_of_schedules(images, tmp_path):
    run = vaekit.train(**options(images, epochs=1, loss="beta", beta="linear(0, 2, 1000)"), out=tmp_path / "run")
    (record,) = run.metrics()
    assert record["validation_beta"] == pytest.approx(2 * record["validation_kl"])
    assert record["train_beta"] < 0.01 * record["train_kl"]


def test_evaluation_weights_all_examples_equally(images, tmp_path):
    """12 test images in batches of 16 or 5 give the same numbers up to the noise of the codes, here none."""
    run = vaekit.train(**options(images, epochs=1, posterior="delta", binarize="static"), out=tmp_path / "run")
    numbers = []
    for size in (16, 5):
        spec = run.spec.model_copy(update={"train": run.spec.train.model_copy(update={"batch_size": size})})
        objective = assemble(spec, run.splits)
        epoch = checkpoint.load_best(objective, run.folder, device="cpu")
        numbers.append(Evaluator(spec, objective, run.splits, ProcessGroup()).evaluate("test", epoch)["reconstruction"])
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-6)


def test_a_plain_autoencoder_has_no_kl_and_no_elbo(images, tmp_path):
    run = vaekit.train(**options(images, epochs=1, posterior="delta"), out=tmp_path / "run")
    assert [loss.kind for loss in run.spec.model.loss] == []
    (record,) = run.metrics()
    assert not {"train_kl", "train_elbo", "validation_kl", "validation_elbo"} & record.keys()


@pytest.mark.parametrize(
    ("likelihood", "binarize", "meaning"),
    [
        ("bce", "dynamic", "lower bound of log p(x), nats"),
        ("bce", "none", "cross-entropy on grey values, not a log-likelihood"),
        ("mse", "none", "lower bound of log p(x) up to a constant, nats"),
        ("gaussian", "none", "lower bound of the log density of pixels in [0, 1], nats"),
    ],
)
def test_the_evaluation_describes_its_elbo(images, tmp_path, likelihood, binarize, meaning):
    run = vaekit.train(**options(images, epochs=1, likelihood=likelihood, binarize=binarize), out=tmp_path / "run")
    assert run.evaluation()["elbo_is"] == meaning
    assert ("bits_per_dim" in run.evaluation()) == (likelihood == "gaussian")


@pytest.fixture
def exploding():
    """A loss that becomes NaN in the second epoch, or at a schedule's end, registered for one test."""

    class Exploding(Loss):
        """Becomes NaN."""

        limit = 1.0

        def forward(self, trace):
            late = (trace.epoch >= 1) & (trace.epoch < torch.inf) if self.limit < math.inf else trace.epoch == torch.inf
            return trace.z.sum(-1) * torch.where(late, torch.nan, 0.0)

    with roles.losses.temporarily(exploding=Exploding):
        yield


@pytest.mark.usefixtures("exploding")
def test_nan_stops_training_and_names_loss_step_and_last_good_checkpoint(images, tmp_path):
    with pytest.raises(DivergenceError, match=r"loss, exploding at epoch 2, step 1") as caught:
        vaekit.train(**options(images, loss="exploding"), out=tmp_path / "run")
    assert str(tmp_path / "run" / "checkpoints" / "last.safetensors") in str(caught.value)
    assert all(torch.isfinite(tensor).all() for tensor in load_file(tmp_path / "run/checkpoints/last.safetensors").values())


@pytest.mark.usefixtures("exploding")
def test_nan_in_validation_is_named_as_such(images, tmp_path, monkeypatch):
    monkeypatch.setattr(roles.losses.get("exploding"), "limit", math.inf)
    with pytest.raises(DivergenceError, match=r"loss, exploding in the validation of epoch 1"):
        vaekit.train(**options(images, loss="exploding"), out=tmp_path / "run")


def test_bce_on_data_outside_the_unit_interval_is_refused(tmp_path):
    np.save(tmp_path / "wide.npy", np.random.default_rng(0).normal(size=(40, 6, 6)).astype(np.float32))
    given = options(tmp_path / "wide.npy", binarize="none")
    with pytest.raises(DataError, match=r"'bce' scores only pixels in \[0, 1\]"):
        vaekit.train(**given, out=tmp_path / "run")
    images = np.random.default_rng(0).random((40, 6, 6)).astype(np.float32)
    for split in ("test", "validation"):
        parts = {"train": images, "validation": images[:9], "test": images[:9]}
        splits = Splits(*(TensorImages(torch.from_numpy(part)[:, None]) for part in (parts | {split: 255 * images[:9]}).values()))
        with pytest.raises(DataError, match=rf"from [\d.]+ to 25\d.* in the {split} split"):
            check_data(build_spec({}, {"batch_size": 8}), roles.likelihoods.get("bce")((1, 6, 6)), splits)
    run = vaekit.train(**given | {"likelihood": "gaussian", "likelihood.link": "identity", "epochs": 1}, out=tmp_path / "real")
    assert "bits_per_dim" not in run.evaluation()


def test_a_batch_larger_than_the_data_is_refused_without_a_folder(images, tmp_path):
    with pytest.raises(UsageError, match="exceeds"):
        vaekit.train(**options(images, batch_size=1000), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_default_batch_adapts_to_fewer_images(images, tmp_path):
    given = options(images, epochs=1)
    del given["batch_size"]
    num = len(vaekit.datasets.build(build_spec({}, given).data.dataset).load().train)
    assert num < 128
    run = vaekit.train(**given, out=tmp_path / "run")
    assert run.spec.train.batch_size == 16
    assert run.metrics()[-1]["step"] == num // 16
    with pytest.raises(UsageError, match="exceeds"):
        vaekit.train(**given, batch_size=128, out=tmp_path / "other")


@pytest.mark.parametrize(
    ("num", "processes", "size"),
    [(50_000, 1, 128), (6144, 1, 128), (6143, 1, 64), (3000, 1, 32), (300, 1, 16), (9, 1, 9), (9, 2, 8), (300, 24, 24)],
)
def test_a_default_batch_gives_an_epoch_48_steps(num, processes, size):
    parts = [TensorImages(torch.zeros(number, 1, 2, 2, dtype=torch.uint8)) for number in (num, 1, 1)]
    fitted = fit_to_data(build_spec({}, {}), Splits(*parts), processes)
    assert fitted.train.batch_size == size
    chosen = build_spec({}, {"batch_size": 128})
    assert fit_to_data(chosen, Splits(*parts), processes) == chosen


@pytest.mark.parametrize("stacked", [False, True])
def test_weight_decay_shrinks_matrices_only(images, tmp_path, stacked):
    """With a learning rate far below the rounding of Adam's steps, only decay changes the weights."""
    given = options(images, epochs=1, lr=1e-12, weight_decay=1e10, schedule="constant", likelihood="gaussian")
    if stacked:
        run, _ = vaekit.sweep(over={"seed": (0, 1)}, **given, stack="on", out=tmp_path / "run")
    else:
        run = vaekit.train(**given, out=tmp_path / "run")
    before = build_vae(run.spec.model, run.header.facts, seed=0).state_dict()
    steps = run.metrics()[-1]["step"]
    for name, tensor in run.vae().state_dict().items():
        expected = before[name] * (1 - 1e-2) ** steps if tensor.ndim > 1 else before[name]
        torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-6)


def test_an_existing_out_is_refused_before_reading_data(images, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").touch()
    monkeypatch.setattr("vaekit.run.load_splits", lambda spec: pytest.fail("the data were read"))
    with pytest.raises(UsageError, match="already exists"):
        vaekit.train(**options(images), out=tmp_path / "run")
    assert (tmp_path / "run" / "mine").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_without_a_gpu_is_a_usage_error(images, tmp_path):
    with pytest.raises(UsageError, match="no cuda device"):
        vaekit.train(**options(images, device="cuda"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_bf16_trains_to_finite_losses_with_sums_in_float32(images, tmp_path):
    run = vaekit.train(**options(images, precision="bf16"), out=tmp_path / "run")
    assert np.isfinite(run.metrics()[-1]["train_loss"])
    assert all(t.dtype != torch.bfloat16 for t in weights(run).values())


def test_a_truncated_checkpoint_is_refused(images, tmp_path):
    run = vaekit.train(**options(images, epochs=1), out=tmp_path / "run")
    file = run.path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        vaekit.load(run.path)


def test_weights_of_another_architecture_are_explained_by_name_and_shape(images, tmp_path):
    run = vaekit.train(**options(images, epochs=1), out=tmp_path / "run")
    tensors, header = checkpoint.load(run.folder.model)
    name = next(name for name in tensors if name.startswith("encoder") and tensors[name].ndim == 2)
    tensors[name] = torch.zeros(3, 3)
    checkpoint.save(run.folder.model, tensors, header.spec, facts=Facts(data_shape=header.facts.data_shape), data=header.data)
    with pytest.raises(CheckpointError, match=r"do not match the model's architecture") as caught:
        vaekit.load(run.path)
    assert f"{name}: (3, 3) in the file, (16, 63) in the model" in str(caught.value)


def test_a_single_file_rebuilds_the_model(images, tmp_path):
    run = vaekit.train(**options(images, epochs=1), out=tmp_path / "run")
    alone = tmp_path / "elsewhere.safetensors"
    alone.write_bytes((run.path / "model.safetensors").read_bytes())
    x = torch.rand(2, 1, 9, 7)
    assert torch.equal(vaekit.load(alone).reconstruct(x), run.vae().reconstruct(x))


def test_a_checkpoint_from_a_missing_plugin_names_what_to_install(images, tmp_path):
    run = vaekit.train(**options(images, epochs=1), out=tmp_path / "run")
    with safe_open(run.folder.model, "pt") as file:
        metadata = json.loads(file.metadata()["vaekit-3"])
    metadata["spec"]["model"]["encoder"]["kind"] = "acme_unet"
    metadata["versions"]["components"]["encoder:acme_unet"] = {"distribution": "vaekit-acme", "version": "1.2"}
    del metadata["digest"]
    metadata["digest"] = checkpoint.digest_of(metadata, load_file(run.folder.model))
    save_file(load_file(run.folder.model), run.folder.model, {"vaekit-3": json.dumps(metadata)})
    with pytest.raises(CheckpointError, match=r"pip install vaekit-acme==1\.2"):
        vaekit.load(run.path)


def test_sample_and_reconstruct_write_pictures(images, tmp_path):
    from PIL import Image

    run = vaekit.train(**options(images, epochs=1), out=tmp_path / "run")
    first, again = (run.sample(9, seed=3, out=tmp_path / f"{i}.png").read_bytes() for i in range(2))
    assert first == again
    Image.fromarray(np.zeros((9, 7), np.uint8)).save(tmp_path / "given.png")
    with Image.open(run.reconstruct([tmp_path / "given.png"])) as picture:
        assert picture.size[1] > picture.size[0] / 8
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "large.png")
    with pytest.raises(DataError, match=r"large\.png does not have the size"):
        run.reconstruct([tmp_path / "large.png"])
    assert run.reconstruct([tmp_path / "large.png"], fit="crop").is_file()


@pytest.mark.slow
def test_a_compiled_run_equals_the_eager_one_up_to_rounding(images, tmp_path):
    runs = [vaekit.train(**options(images, compile=c), out=tmp_path / c) for c in ("off", "on")]
    assert [run.spec.train.compile for run in runs] == ["off", "on"]
    for mine, theirs in zip(*(run.metrics() for run in runs), strict=True):
        for name in ("train_loss", "train_kl", "validation_loss"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-4)


def test_shared_weights_are_refused_before_training(images, tmp_path, monkeypatch):

    def tied(spec, splits):
        objective = assemble(spec, splits)
        first = next(each for each in objective.vae.encoder.modules() if isinstance(each, torch.nn.Linear))
        objective.vae.decoder.tied = first
        return objective

    monkeypatch.setattr("vaekit.run.assemble", tied)
    with pytest.raises(UsageError, match=r"vae\.encoder\..* and vae\.decoder\.tied"):
        vaekit.train(**options(images, epochs=1), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_process_compiles_models_of_many_forms(images, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch.compiler.reset()
    for dim in range(1, 11):  # torch itself stops at eight
        vaekit.train(**options(images, latent_dim=dim, epochs=1, compile="on", pictures="none"), out=tmp_path / str(dim))


def test_compilation_depends_on_the_work_of_the_run_and_excludes_convolutions():
    from vaekit.specs.options import build_spec
    from vaekit.training.compilation import choose_compilation
    from vaekit.training.hardware import fit_to_machine

    def choice(num_images, **given):
        spec = fit_to_machine(build_spec({}, {"device": "cpu", **given}))
        objective = build_objective(spec.model, build_vae(spec.model, Facts(data_shape=(1, 28, 28))), num_data=num_images)
        return choose_compilation(spec, objective).train.compile

    assert choice(10**9, encoder="cnn") == "off"
    assert choice(1000, encoder="mlp", epochs=1) == "off"
    assert choice(10**7, encoder="mlp", epochs=100) == "on"
    assert choice(10**7, encoder="mlp", epochs=100, compile="off") == "off"


def test_compiling_without_a_compiler_is_refused_if_requested_and_never_chosen(images, tmp_path, monkeypatch):
    monkeypatch.setattr("vaekit.training.compilation.has_cpp_compiler", lambda: False)
    with pytest.raises(UsageError, match=r"needs a C\+\+ compiler"):
        vaekit.train(**options(images, compile="on"), out=tmp_path / "run")
    monkeypatch.setattr("vaekit.training.compilation.WORTH_COMPILING_SECONDS", 0)
    assert vaekit.train(**options(images, epochs=1), out=tmp_path / "run").spec.train.compile == "off"


def test_a_full_disk_is_detected_before_training(images, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(VaekitError, match="too full"):
        vaekit.train(**options(images), out=tmp_path / "run")


def test_convolutions_train_with_channels_last_to_the_same_losses(tmp_path, monkeypatch):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (60, 9, 7, 3), dtype=np.uint8))
    given = options(tmp_path / "images.npy", encoder="cnn", binarize="none", epochs=2)
    given |= {"encoder.channels": (3, 4), "decoder.channels": (4, 3)}
    step, layouts = Step.__call__, set()

    def watched(self, reading):
        tensors = [self.batches.make(reading).x, *(p for p in self.objective.parameters() if p.ndim == 4)]
        layouts.add(all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in tensors))
        return step(self, reading)

    monkeypatch.setattr(Step, "__call__", watched)
    last = vaekit.train(**given, out=tmp_path / "last")
    assert layouts == {True}
    monkeypatch.setattr("vaekit.training.step.lay_out", lambda module: torch.contiguous_format)
    first = vaekit.train(**given, out=tmp_path / "first")
    assert layouts == {True, False}
    for mine, theirs in zip(last.metrics(), first.metrics(), strict=True):
        assert mine["validation_loss"] == pytest.approx(theirs["validation_loss"], rel=1e-4)


@pytest.mark.parametrize("channels", [(3, 5), (16, 20)])
@pytest.mark.parametrize(("encoder", "decoder"), [("cnn", "bilinear"), ("resnet", "cnn"), ("resnet", "resnet")])
def test_the_layout_of_convolutions_does_not_change_gradients(encoder, decoder, channels):
    """With channels last, oneDNN's are wrong for strided 1×1 convolutions with few channels."""
    from vaekit.compute.layout import lay_out
    from vaekit.specs.options import build_spec

    given = {"encoder": encoder, "decoder": decoder, "encoder.channels": channels, "decoder.channels": channels, "device": "cpu"}
    model = build_spec({}, {**given, "likelihood": "mse"}).model
    objective = build_objective(model, build_vae(model, Facts(data_shape=(3, 16, 16)), seed=0)).double()
    inputs = example_inputs(objective)
    gradients = []
    for module in (copy.deepcopy(objective), objective.float()):
        layout = torch.contiguous_format if module is not objective else lay_out(module)
        dtype = next(module.parameters()).dtype
        x = inputs.x.to(dtype).repeat(8, 1, 1, 1).contiguous(memory_format=layout)
        total, *_ = module(inputs._replace(x=x, target=x, noise=inputs.noise.to(dtype).repeat(8, 1), y=None))
        total.backward()
        gradients.append([parameter.grad.double() for parameter in module.parameters()])
    for exact, single in zip(*gradients, strict=True):
        assert (exact - single).norm() < 1e-4 * exact.norm() + 1e-7


@pytest.mark.parametrize("stack", ["off", "on"])
def test_overflowing_moments_do_not_stop_training_silently(images, tmp_path, stack):
    given = options(images, loss="beta", epochs=1, pictures="none")
    with pytest.raises(DivergenceError, match="moments are not finite") as caught:
        vaekit.train(**given, beta=1e30, out=tmp_path / "run")
    assert "exp_avg_sq of vae.encoder" in caught.value.given
    assert not (tmp_path / "run" / "model.safetensors").exists()
    one, other = vaekit.sweep(over={"beta": (1.0, 1e30)}, **given, stack=stack, out=tmp_path / "sweep")
    assert one.evaluation() is not None
    assert other.evaluation() is None


def test_the_number_of_frames_does_not_grow_with_that_of_the_epochs(images, tmp_path, monkeypatch):
    """Frames left by an earlier animation, at any epochs, are thinned out as well."""
    run = vaekit.train(**options(images, epochs=1, pictures="auto"), out=tmp_path / "run")
    batches = Batches(run.splits.validation, batch_size=16, streams=Streams(0), train=False, split="validation")
    shots = Snapshots(run.spec, run.folder, run.vae(), batches)
    monkeypatch.setattr(snapshots, "MOST_KEPT", 8)
    kept = []
    for epoch in range(1, 71):
        shots.take(epoch)
        kept.append([int(file.stem) for file in sorted(run.folder.frames.iterdir())])
    assert kept[:8] == [[*range(1, epoch + 1)] for epoch in range(1, 8)] + [[1, 3, 5, 7, 8]]
    assert max(map(len, kept)) <= 8 + 1
    assert kept[-1] == [1, 17, 33, 49, 65, 70]
    for epoch in (2, 30, 31, 40):
        (run.folder.frames / f"{epoch:05d}.png").write_bytes(b"")
    shots.take(71)
    assert [int(file.stem) for file in sorted(run.folder.frames.iterdir())] == [1, 17, 33, 49, 65, 71]
