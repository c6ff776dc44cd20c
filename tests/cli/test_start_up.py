"""Behaviour that needs a separate process: imports, exit codes, pipes and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vaekit.roles import pictures
from vaekit.run import Run

CHECK = """
import gc, sys
from vaekit.__main__ import main

class Finder:
    def find_spec(self, name, *_):
        assert name != "torch" or not gc.isenabled(), "torch is searched for garbage while it is imported"
        assert name != "vaekit.training.trainer" or not gc.isenabled() or gc.get_freeze_count(), "and afterwards"

sys.meta_path.insert(0, Finder())
without = sys.argv.pop(1)
code = main()
loaded = set(without.split()) & sys.modules.keys()
assert not loaded, loaded
assert gc.isenabled()
assert gc.get_freeze_count() > len(gc.get_objects()), "the interpreter searches for garbage on exit"
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
def test_lists_do_not_import_torch_or_pydantic(arguments: list[str]) -> None:
    done = run("-c", CHECK, f"{HEAVY} pydantic", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("command", ["embed", "evaluate", "report", "score", *pictures.kinds()])
def test_help_of_commands_on_runs_does_not_import_torch(command: str) -> None:
    done = run("-c", CHECK, HEAVY, command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_runs_are_described_without_importing_torch(labelled_run: Path) -> None:
    for arguments in (["info", str(labelled_run)], ["runs", str(labelled_run.parent)]):
        done = run("-c", CHECK, HEAVY, *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert "array" in done.stdout


def test_training_does_not_load_the_compiler(tmp_path: Path) -> None:
    given = ["--dataset", "digits", "--epochs", "1", "--device", "cpu", "--quiet", "--ema", "0.9", "--out", str(tmp_path / "run")]
    done = run("-c", CHECK, "torch._dynamo torch._inductor torchvision onnx", "train", *given)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["evaluate", "sample", "scatter", "report"])
def test_commands_on_runs_do_not_load_the_compiler(labelled_run: Path, tmp_path: Path, command: str) -> None:
    out = [] if command == "evaluate" else ["--out", str(tmp_path / ("page.html" if command == "report" else "picture.png"))]
    done = run("-c", CHECK, "torch._dynamo torchvision onnx", command, str(labelled_run), *out)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_complete_run_is_refused_without_the_compiler(labelled_run: Path) -> None:
    done = run("-c", CHECK, "torch._dynamo torchvision onnx", "resume", str(labelled_run))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {labelled_run} is complete")


def test_a_usage_error_in_a_process_exits_with_2_and_no_traceback() -> None:
    done = run("-m", "vaekit", "train", "--epoch", "3")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: unknown option epoch")
    assert "--epochs" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_is_not_an_error() -> None:
    with start("components", "list") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(60) == 1


@pytest.mark.skipif(os.name == "nt", reason="no signals to another process")
@pytest.mark.parametrize("given", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_saves_a_checkpoint_explains_how_to_resume_and_exits_with_130(tmp_path: Path, given: str) -> None:
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (64, 8, 8), dtype=np.uint8))
    flags = "--dataset array --path images.npy --encoder.hidden 16 --epochs 500 --batch-size 16 --pictures none --out run"
    with start("train", *flags.split(), cwd=tmp_path) as process:
        assert process.stdout is not None
        assert any(line.startswith("epoch") for line in process.stdout)
        process.send_signal(signal.Signals[given])
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == "interrupted; resume with: vaekit resume run"
    assert (tmp_path / "run" / "checkpoints" / "last.safetensors").is_file()


FLAGS = "--dataset array --path images.npy --encoder.hidden 16 --decoder.hidden 16 --batch-size 16 --pictures none --out run"
posix = pytest.mark.skipif(os.name == "nt", reason="no signals to another process")


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 256, (64, 8, 8), dtype=np.uint8))
    command = command.replace("vaekit", f"{sys.executable} -m vaekit", 1)
    return subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, timeout=120, env=ENVIRONMENT | environment, cwd=folder, check=False
    )


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp437"])
def test_any_output_encoding_works(tmp_path: Path, encoding: str) -> None:
    done = shell(f"vaekit train {FLAGS} --epochs 1", tmp_path, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "vaekit reconstruct run IMAGES" in done.stdout


@posix
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_do_no_harm(tmp_path: Path, closed: str) -> None:
    done = shell(f"vaekit train {FLAGS} --epochs 1 {closed}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_file()) == [
        "evaluation.json",
        "metrics.jsonl",
        "model.safetensors",
        "spec.yaml",
    ]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_unwritable_output_is_a_one_line_error(tmp_path: Path) -> None:
    done = shell("vaekit components list > /dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: No space left on device")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


INTERRUPT = """
import os, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
"""


@posix
@pytest.mark.parametrize("name", ["vaekit.cli", "typer", "pydantic", "torch", "vaekit.training.trainer"])
def test_ctrl_c_during_imports_ends_with_130_and_no_traceback(tmp_path: Path, name: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT.format(name=name))
    done = shell(f"vaekit train {FLAGS} --epochs 1", tmp_path, PYTHONPATH=f"{tmp_path}:{ENVIRONMENT['PYTHONPATH']}")
    assert done.returncode == 130
    assert done.stderr in {"interrupted\n", "interrupted; nothing was started\n"}
    assert not (tmp_path / "run").exists()


TWICE = """
import os, signal, sys, threading, time
from pathlib import Path
from vaekit.__main__ import main

def interrupt():
    while not Path("run/checkpoints/last.safetensors").exists():
        time.sleep(0.001)
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep({gap})

threading.Thread(target=interrupt, daemon=True).start()
sys.argv = ["vaekit", "train", *{flags!r}.split(), "--epochs", "500"]
sys.exit(main())
"""


@posix
@pytest.mark.parametrize("gap", [0.0, 0.005, 0.02, 0.05])
def test_ctrl_c_again_at_once_ends_with_130_and_no_traceback(tmp_path: Path, gap: float) -> None:
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (64, 8, 8), dtype=np.uint8))
    command = [sys.executable, "-c", TWICE.format(gap=gap, flags=FLAGS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=ENVIRONMENT, cwd=tmp_path, check=False)
    assert done.returncode == 130
    assert done.stderr.startswith("interrupted")
    assert len(done.stderr.splitlines()) == 1


@posix
def test_closing_the_terminal_leaves_a_checkpoint(tmp_path: Path) -> None:
    import pty

    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (64, 8, 8), dtype=np.uint8))
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        arguments = [sys.executable, "-m", "vaekit", "train", *FLAGS.split(), "--epochs", "100000"]
        os.execve(sys.executable, arguments, ENVIRONMENT)
    seen = b""
    while b"2/100000" not in seen:  # the second epoch has begun
        seen += os.read(terminal, 1000)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 130  # not killed by the signal
    assert Run(tmp_path / "run").position() > (0, 0)
