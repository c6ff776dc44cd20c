"""Several processes train one model as one process does; real torchrun, gloo."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

import vaekit

ROOT = Path(__file__).parents[2]
ARGUMENTS = [
    "--dataset", "array", "--encoder.hidden", "16", "--decoder.hidden", "16", "--likelihood", "bce", "--binarize", "dynamic",
    "--augment.rotate", "10", "--latent-dim", "3", "--batch-size", "16", "--threads", "1", "--device", "cpu", "--quiet",
    "--epochs", "3",
]  # fmt: skip


@pytest.fixture
def images(tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (125, 9, 7), dtype=np.uint8))  # a short last batch in evaluation
    return path


def vaekit_command(*arguments, processes=1):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment["OMP_NUM_THREADS"] = "1"
    return subprocess.run(
        [sys.executable, *launcher, "-m", "vaekit", *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip


def assert_close_runs(first, second):
    for mine, theirs in zip(first.metrics(), second.metrics(), strict=True):
        for name in mine:
            if name.startswith(("train_", "validation_")):
                np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-4, atol=1e-4, err_msg=name)
    for name, value in load_file(first.path / "model.safetensors").items():
        np.testing.assert_allclose(value, load_file(second.path / "model.safetensors")[name], rtol=1e-3, atol=1e-5, err_msg=name)
    assert first.evaluation()["elbo"] == pytest.approx(second.evaluation()["elbo"], rel=1e-5)


def test_two_processes_train_as_one_does(images, tmp_path):
    runs = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        done = vaekit_command("train", *ARGUMENTS, "--dataset.path", images, "--out", out, processes=processes)
        assert done.returncode == 0, done.stderr
        runs.append(vaekit.Run(out))
    assert_close_runs(*runs)


def test_an_interrupted_run_resumes_with_another_number_of_processes(images, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    done = vaekit_command("train", *ARGUMENTS, "--dataset.path", images, "--out", whole)
    assert done.returncode == 0, done.stderr
    parts = tmp_path / "parts"
    interrupt = (
        "import os, signal, sys; from vaekit.training.trainer import Trainer; from vaekit.cli import main; step = Trainer.step\n"
        "def hooked(self, batch, at):\n"
        "    if at == 8: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return step(self, batch, at)\n"
        "Trainer.step = hooked; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["train", *ARGUMENTS, "--dataset.path", images, "--out", parts]
    stopped = subprocess.run([sys.executable, "-c", interrupt, *map(str, arguments)], cwd=ROOT, capture_output=True, check=False)
    assert stopped.returncode == 130, stopped.stderr
    done = vaekit_command("resume", parts, processes=2)
    assert done.returncode == 0, done.stderr
    assert_close_runs(vaekit.Run(whole), vaekit.Run(parts))


def test_a_batch_that_cannot_be_shared_equally_is_refused(images, tmp_path):
    out = tmp_path / "run"
    done = vaekit_command("train", *ARGUMENTS, "--batch-size", "15", "--dataset.path", images, "--out", out, processes=2)
    assert done.returncode != 0
    assert "cannot be shared equally" in done.stderr
