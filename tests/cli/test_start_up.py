"""What only a process of its own can show: imports, exit codes, pipes and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vaekit.roles import pictures

CHECK = """
import sys
from vaekit.cli import main
without, *arguments = sys.argv[1:]
code = main(arguments)
loaded = set(without.split()) & sys.modules.keys()
assert not loaded, loaded
sys.exit(code)
"""
HEAVY = "torch torchvision numpy"


ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=ENVIRONMENT, check=False)


def start(*arguments: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vaekit", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=cwd)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["components", "list"], ["components"]], ids=" ".join)
def test_lists_come_without_importing_torch_or_pydantic(arguments: list[str]) -> None:
    done = run("-c", CHECK, f"{HEAVY} pydantic", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("command", ["evaluate", "report", *pictures.kinds()])
def test_help_of_commands_on_runs_comes_without_importing_torch(command: str) -> None:
    done = run("-c", CHECK, HEAVY, command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_mistake_in_a_process_exits_with_2_and_no_traceback() -> None:
    done = run("-m", "vaekit", "train", "--epoch", "3")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: unknown option epoch")
    assert "--epochs" in done.stderr
    assert "Traceback" not in done.stderr


def test_reader_that_goes_away_is_no_error_message() -> None:
    with start("components", "list") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(60) == 1


@pytest.mark.skipif(os.name == "nt", reason="no signals to another process")
@pytest.mark.parametrize("given", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_checkpoint_says_how_to_go_on_and_exits_with_130(tmp_path: Path, given: signal.Signals) -> None:
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (64, 8, 8), dtype=np.uint8))
    flags = "--dataset array --path images.npy --encoder.hidden 16 --epochs 500 --batch-size 16 --pictures none --out run"
    with start("train", *flags.split(), cwd=tmp_path) as process:
        assert process.stdout is not None
        assert any(line.startswith("epoch") for line in process.stdout)
        process.send_signal(given)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == "interrupted; resume with: vaekit resume run"
    assert (tmp_path / "run" / "checkpoints" / "last.safetensors").is_file()
