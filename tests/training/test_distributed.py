"""Several processes train a model like a single process, launched by torchrun or, to start faster, forked; gloo."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from training.ranks import vaekit_in_two_processes

import vaekit
from vaekit import roles
from vaekit.cli import main
from vaekit.components.decoders.mlp import MLP as Decoder
from vaekit.components.encoders.mlp import MLP as Encoder
from vaekit.compute.sharding import blocks
from vaekit.errors import UsageError
from vaekit.model.objective import Objective
from vaekit.training.step import changed_by_forward

ROOT = Path(__file__).parents[2]
ARGUMENTS = [
    "--dataset", "array", "--encoder.hidden", "16", "--decoder.hidden", "16", "--likelihood", "bce", "--binarize", "dynamic",
    "--augment.rotate", "10", "--latent-dim", "3", "--batch-size", "16", "--threads", "1", "--device", "cpu", "--quiet",
    "--epochs", "3", "--ema", "0.5",
]  # fmt: skip
DIVIDED = ["--parallel", "fsdp", "--grad-clip", "5", "--likelihood", "gaussian", "--binarize", "none"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (125, 9, 7), dtype=np.uint8))  # a short last batch in evaluation
    return path


@pytest.fixture(scope="module")
def alone(images, tmp_path_factory):
    """The run of one process."""
    return trained_alone(tmp_path_factory.mktemp("alone") / "run", "--dataset.path", images)


def vaekit_environment(*paths):
    own = [str(ROOT), *map(str, paths), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(own), "OMP_NUM_THREADS": "1"}


def torchrun(processes, command, environment=None):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    return subprocess.run(
        [sys.executable, *launcher, *map(str, command)],
        env=environment or vaekit_environment(), capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip


def vaekit_command(*arguments, processes=1, environment=None):
    return torchrun(processes, ["-m", "vaekit", *arguments], environment)


def trained(out, *arguments):
    vaekit_in_two_processes(out.with_name(f"{out.name}_ranks"), "train", *ARGUMENTS, *arguments, "--out", out)
    return vaekit.Run(out)


def trained_alone(out, *arguments):
    assert main(["train", *map(str, (*ARGUMENTS, *arguments, "--out", out))]) == 0
    return vaekit.Run(out)


def assert_close_runs(first, second):
    for mine, theirs in zip(first.metrics(), second.metrics(), strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine:
            if name.startswith(("train_", "validation_")):
                np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-4, atol=1e-4, err_msg=name)
    for name, value in load_file(first.path / "model.safetensors").items():
        np.testing.assert_allclose(value, load_file(second.path / "model.safetensors")[name], rtol=1e-3, atol=1e-5, err_msg=name)
    assert first.evaluation()["elbo"] == pytest.approx(second.evaluation()["elbo"], rel=1e-5)


AT_STEP_8 = """
import os, signal, sys
from vaekit.cli import main
from vaekit.training.step import Step

def hooked(self, reading, step=Step.__call__):
    if reading.number == 8:
        {}
    return step(self, reading)

Step.__call__ = hooked
sys.exit(main(sys.argv[1:]))
"""


def test_processes_of_torchrun_train_like_one(images, tmp_path, alone):
    done = vaekit_command("train", *ARGUMENTS, "--dataset.path", images, "--out", tmp_path / "run", processes=2)
    assert done.returncode == 0, done.stderr
    assert_close_runs(alone, vaekit.Run(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_processes_agree_on_when_to_stop(images, tmp_path, parallel):
    more = ["--lr", "0.02", "--schedule", "constant", "--patience", "1", "--epochs", "12", "--warmup-steps", "4"]
    arguments = ["--dataset.path", images, "--parallel", parallel, *more, "--max-steps", "75"]
    one, two = (train(tmp_path / train.__name__, *arguments) for train in (trained_alone, trained))
    assert 1 < len(one.metrics()) < 11
    assert_close_runs(one, two)
    pausing = trained(tmp_path / "pausing", *arguments, "--max-time", "0.001s")
    assert (pausing.position(), pausing.is_complete()) == ((0, 1), False)
    done = vaekit_command("resume", pausing.path, "--max-time", "none", processes=2)
    assert done.returncode == 0, done.stderr
    assert_close_runs(one, vaekit.Run(pausing.path))


def test_two_processes_that_shard_the_model_train_like_one(images, tmp_path):
    runs = [train(tmp_path / train.__name__, "--dataset.path", images, *DIVIDED) for train in (trained_alone, trained)]
    assert_close_runs(*runs)
    one, two = (load_file(run.folder.last) for run in runs)
    assert {name: tensor.shape for name, tensor in one.items()} == {name: tensor.shape for name, tensor in two.items()}


@pytest.mark.parametrize("more", [("--loss", "tc"), ("--prior", "mixture")], ids=["tc", "own draws"])
def test_batch_statistics_use_the_whole_batch(images, tmp_path, more):
    """The total correlation and the MMD; one process has no validation batch. With a mixture, the loss samples from the prior."""
    arguments = ["--dataset.path", images, "--loss", "mmd", *more]
    run = trained_alone(tmp_path / "one", *arguments)
    assert_close_runs(run, trained(tmp_path / "two", *arguments))
    assert {"train_squared_mmd", *(["train_total_correlation"] if "tc" in more else [])} <= run.metrics()[0].keys()


@pytest.mark.parametrize("loss", [("iwae", "--dreg"), ("factor", "--loss.hidden", "8")], ids=["iwae", "factor"])
def test_several_samples_and_players_match_one_process(images, tmp_path, loss):
    arguments = ["--dataset.path", images, "--loss", *loss]
    assert_close_runs(*(train(tmp_path / train.__name__, *arguments) for train in (trained_alone, trained)))


def test_a_critic_with_an_adaptive_weight_matches_one_process(images, tmp_path):
    arguments = ["--dataset.path", images, "--binarize", "none", "--likelihood", "l1", "--loss", "adversarial"]
    arguments += ["--adaptive", "--adversarial.weight", "step(0, 0.5, 1)", "--adversarial.objective", "hinge"]
    arguments += ["--adversarial.channels", "4,4", "--feature-matching", "1", "--r1", "1"]
    one, two = (train(tmp_path / train.__name__, *arguments) for train in (trained_alone, trained))
    assert_close_runs(one, two)
    critics = [load_file(run.folder.last) for run in (one, two)]
    learned = [name for name in critics[0] if name.startswith("objective.losses.adversarial.critic")]
    assert learned
    for name in learned:
        np.testing.assert_allclose(critics[0][name], critics[1][name], rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_second_stage_matches_one_process(images, tmp_path, alone, parallel):
    arguments = ["--dataset.path", images, "--prior", "mixture", "--parallel", parallel, "--lr", "1e-2"]
    arguments += ["--init", alone.path, "--freeze", "encoder,decoder,posterior,likelihood"]
    one, two = (train(tmp_path / train.__name__, *arguments) for train in (trained_alone, trained))
    assert_close_runs(one, two)
    before, after = (load_file(run.folder.model) for run in (alone, two))
    for name in before:
        assert torch.equal(before[name], after[name]), name
    assert {name.partition(".")[0] for name in after.keys() - before.keys()} == {"prior"}
    assert one.header.init == two.header.init is not None


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_exemplars_are_the_images_of_the_whole_batch(images, tmp_path, parallel):
    arguments = ["--dataset.path", images, "--prior", "exemplar", "--prior.num-exemplars", "10", "--parallel", parallel]
    assert_close_runs(*(train(tmp_path / train.__name__, *arguments) for train in (trained_alone, trained)))


@pytest.mark.parametrize(
    "more",
    [
        ("--loss", "vae_gan", "--loss", "kl", "--loss.hidden", "8"),
        ("--posterior", "vq", "--posterior.num-codes", "8", "--latent-stride", "3", "--encoder", "cnn", "--decoder", "cnn"),
        ("--prior", "exemplar", "--prior.num-exemplars", "10", "--parallel", "fsdp"),
        DIVIDED,
    ],
    ids=["players", "codebook", "exemplars", "divided"],
)
def test_two_processes_with_accumulation_train_like_one_on_whole_batches(images, tmp_path, more):
    arguments = ["--dataset.path", images, *more]
    whole = trained_alone(tmp_path / "whole", *arguments)
    assert_close_runs(whole, trained(tmp_path / "parts", *arguments, "--accumulate", "2"))


@pytest.mark.parametrize("loss", ["decoder_norm", "gradient_penalty"])
def test_losses_that_call_a_sharded_model_match_one_process(images, tmp_path, loss):
    """One reads the shards of the decoder's weights, the other calls the decoder again for its derivative."""
    arguments = ["--dataset.path", images, *DIVIDED, "--loss", loss, "--loss", "kl"]
    assert_close_runs(*(train(tmp_path / train.__name__, *arguments) for train in (trained_alone, trained)))


VQ = ("--posterior", "vq", "--num-codes", "8", "--loss", "commitment", "--latent-dim", "4")


@pytest.mark.parametrize("more", [("--loss", "mmd"), VQ], ids=["constants", "learned"])
def test_processes_have_the_same_buffers_without_sending_them(images, tmp_path, more):
    arguments = ("train", *ARGUMENTS, *more, "--epochs", "2", "--dataset.path", images, "--out", tmp_path / "run")
    vaekit_in_two_processes(tmp_path / "ranks", *arguments, watch=True)
    one, other = (json.loads((tmp_path / "ranks" / f"steps_{rank}.json").read_text()) for rank in range(2))
    assert one == other
    assert len(one) == 2 * (100 // 16)
    assert one[0]["buffers"]
    assert {step["broadcast"] for step in one} == {0}


def test_running_statistics_are_synchronised_but_neither_constants_nor_learned_or_frozen_buffers():
    encoder, decoder = Encoder((1, 4, 4), (2, 3)), Decoder((3,), (1, 4, 4))
    for network in (encoder, decoder):
        network.norm = nn.BatchNorm2d(1)
    losses = {"mmd": roles.losses.get("mmd")(), "geco": roles.losses.get("geco")(data_shape=(1, 4, 4))}
    objective = Objective(vaekit.VAE(encoder, decoder), losses, frozen=["decoder"])
    expected = [f"vae.encoder.norm.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")]
    found = [name for name, each in objective.named_buffers() if any(each is other for other in changed_by_forward(objective))]
    assert found == expected


def test_a_batch_statistic_of_several_processes_sees_no_images():
    vae, x = vaekit.VAE(Encoder((1, 4, 4), (2, 3)), Decoder((3,), (1, 4, 4))), torch.rand(4, 1, 4, 4)
    trace = vae(x, gather=lambda part, dim: torch.cat([part, part], dim))
    assert trace.whole.z.shape == (8, 3)
    assert trace.whole.kl.shape == (8,)
    with pytest.raises(UsageError, match="only to latents, labels and draws"):
        _ = trace.whole.log_likelihood


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_an_interrupted_run_resumes_with_another_number_of_processes(images, tmp_path, alone, parallel):
    parts = tmp_path / "parts"
    program = AT_STEP_8.format("os.kill(os.getpid(), signal.SIGINT)")
    command = [sys.executable, "-c", program, "train", *ARGUMENTS, "--dataset.path", images, "--out", parts]
    stopped = subprocess.run(command, env=vaekit_environment(), capture_output=True, check=False)
    assert stopped.returncode == 130, stopped.stderr
    spec = parts / "spec.yaml"
    spec.write_text(spec.read_text().replace("parallel: ddp", f"parallel: {parallel}"))
    done = vaekit_command("resume", parts, processes=2)
    assert done.returncode == 0, done.stderr
    assert_close_runs(alone, vaekit.Run(parts))


def test_a_process_that_dies_ends_the_run_with_its_cause_and_one_process_resumes_it(images, tmp_path, alone):
    parts = tmp_path / "parts"
    program = tmp_path / "program.py"
    program.write_text(AT_STEP_8.format("assert os.environ['RANK'] == '0', 'the second process has had enough'"))
    arguments = ["train", *ARGUMENTS, "--dataset.path", images, "--parallel", "fsdp", "--out", parts]
    done = torchrun(2, [program, *arguments])
    assert done.returncode != 0
    assert "the second process has had enough" in done.stderr
    assert main(["resume", str(parts), "--quiet"]) == 0
    assert_close_runs(alone, vaekit.Run(parts))


def test_a_usage_error_is_reported_once_without_a_traceback(images, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").touch()
    done = vaekit_command("train", *ARGUMENTS, "--dataset.path", images, "--out", tmp_path / "run", processes=2)
    assert done.returncode != 0
    assert done.stderr.count("already exists") == 1
    assert "world.py" not in done.stderr  # no traceback of the other process; torchrun may end it before it says a word


def test_a_batch_that_cannot_be_divided_equally_is_refused(images, tmp_path):
    out = tmp_path / "run"
    done = vaekit_command("train", *ARGUMENTS, "--batch-size", "15", "--dataset.path", images, "--out", out, processes=2)
    assert done.returncode != 0
    assert "cannot be divided equally" in done.stderr


def test_a_sharded_model_is_not_compiled():
    with pytest.raises(UsageError, match="cannot be compiled"):
        vaekit.train(compile="on", parallel="fsdp", device="cpu")


def test_the_blocks_of_a_backbone_are_the_large_elements_of_its_lists():
    large, small = nn.Linear(400, 400), nn.Linear(4, 4)
    nested = nn.Sequential(nn.Linear(400, 300), nn.ReLU())
    network = nn.ModuleDict({"stem": nn.Linear(400, 400), "trunk": nn.ModuleList([large, small, nested])})
    assert list(blocks(network)) == [large, nested[0]]


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_thirty_consecutive_runs_succeed(images, tmp_path, parallel):
    """Processes of a gloo group may abort on exit, after a correct result."""
    arguments = ["train", *ARGUMENTS, "--epochs", "1", "--dataset.path", images, "--parallel", parallel]
    ends = [vaekit_command(*arguments, "--out", tmp_path / str(run), processes=2).returncode for run in range(30)]
    assert ends == [0] * 30


@pytest.fixture
def hosts():
    """Two connected network namespaces: the command prefix for each, and their addresses."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and the command ip")
    names = [f"vaekit{os.getpid()}{end}" for end in "ab"]
    addresses = ["10.213.77.1", "10.213.77.2"]
    commands = [
        *(["netns", "add", name] for name in names),
        ["link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1]],
        *(["-n", name, "addr", "add", f"{address}/30", "dev", "cable"] for name, address in zip(names, addresses, strict=True)),
        *(["-n", name, "link", "set", device, "up"] for name in names for device in ("lo", "cable")),
    ]
    try:
        for command in commands:
            done = subprocess.run(["ip", *command], capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"no network namespaces here: ip {' '.join(command)}: {done.stderr.strip()}")
        yield [(["ip", "netns", "exec", name], address) for name, address in zip(names, addresses, strict=True)]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_hosts_without_shared_files_train_like_one_process(images, tmp_path, hosts, parallel):
    arguments = [*ARGUMENTS, "--dataset.path", images, "--parallel", parallel, "--loss", "tc"]
    alone = trained_alone(tmp_path / "alone", *arguments)
    runs = tmp_path / "runs"
    runs.mkdir()
    (_, first), _ = hosts
    agents = []
    for number, (host, address) in enumerate(hosts):
        hidden = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none "{runs}" && exec "$@"', "sh"] if number else []
        rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{first}:29400", "--local-addr", address]
        rendezvous += ["--rdzv-conf", f"is_host={number == 0}"]  # a namespace has its own address but the machine's name
        launcher = ["-m", "torch.distributed.run", "--nnodes", "2", *rendezvous]  # the lower address leads
        program = ["-m", "vaekit", "train", *arguments, "--out", runs / "run"]
        command = [*host, *hidden, sys.executable, *launcher, *map(str, program)]
        environment = vaekit_environment() | {"GLOO_SOCKET_IFNAME": "cable"}
        agents.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        for agent in agents:
            _, errors = agent.communicate(timeout=240)
            assert agent.returncode == 0, errors
    finally:
        for agent in agents:
            agent.kill()
    assert_close_runs(alone, vaekit.Run(runs / "run"))


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_processes_that_fit_a_prior_encode_the_images_once(images, tmp_path, parallel):
    plain = ["--binarize", "none", "--augment.rotate", "0", "--epochs", "1"]
    first = trained_alone(tmp_path / "first", "--dataset.path", images, *plain)
    given = ["fit-prior", first.path, "--prior", "rectified_flow", "--prior.width", "8", "--epochs", "2", "--quiet"]
    vaekit_in_two_processes(tmp_path / "ranks", *given, "--parallel", parallel, "--out", tmp_path / "shared")
    assert main([*map(str, given), "--out", str(tmp_path / "alone")]) == 0
    shared, alone = (vaekit.Run(tmp_path / name) for name in ("shared", "alone"))
    for mine, theirs in zip(shared.metrics(), alone.metrics(), strict=True):
        for name in ("train_flow_matching", "validation_flow_matching", "validation_reconstruction"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-4), name
    assert "train_reconstruction" not in shared.metrics()[0]


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_processes_that_distill_a_decoder_encode_the_images_once(images, tmp_path, parallel, capsys):
    plain = ["--binarize", "none", "--augment.rotate", "0", "--likelihood", "gaussian", "--epochs", "1"]
    teacher = trained_alone(tmp_path / "teacher", "--dataset.path", images, *plain)
    given = ["distill", teacher.path, "--decoder", "mlp", "--decoder.hidden", "8", "--epochs", "2"]
    done = vaekit_command(*given, "--parallel", parallel, "--out", tmp_path / "shared", processes=2)
    assert done.returncode == 0, done.stderr
    assert main([*map(str, given), "--out", str(tmp_path / "alone")]) == 0
    for printed in (done.stdout, capsys.readouterr().out):
        assert printed.count("The student's decoder has") == 1
    assert_close_runs(vaekit.Run(tmp_path / "alone"), shared := vaekit.Run(tmp_path / "shared"))
    before, after = (load_file(run.folder.model) for run in (teacher, shared))
    for name in before:
        assert name.startswith(("decoder.", "likelihood.")) or torch.equal(before[name], after[name]), name
