"""Every benchmark runs on little work, and writes its environment and its results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
LITTLE = {
    "export.py": ("--decoders", "mlp", "--seconds", "0.01"),
    "first_stage.py": ("pictures.npz", "--images", "8", "--epochs", "1", "--batch", "4", "--threads", "1"),
    "folder.py": (".", "--repeats", "1", "--images", "20", "--batch", "4", "--workers", "0", "--threads", "1"),
    "gpu.py sweep": ("--device", "cpu", "--tiny"),
    "precision.py": ("--cases", "mlp 784-512-20", "--seeds", "0", "--repeats", "1", "--threads", "1"),
    "ranks.py": ("--repeats", "1", "--images", "32", "--batch", "8"),
    "scaling.py": ("--parts", "models", "--axes", "planning"),
    "startup.py": ("--repeats", "1"),
    "sweep.py": ("--models", "2", "--steps", "2", "--batch", "4", "--repeats", "1", "--threads", "1", "--ways", "eager"),
    "train_throughput.py": ("--cases", "mlp 784-512-20", "--repeats", "1", "--threads", "1"),
}
"""The arguments that make each script quick."""


@pytest.mark.slow
@pytest.mark.parametrize("script", LITTLE)
def test_a_benchmark_runs_and_writes_its_environment_and_results(script: str, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "pictures.npz", x_train=images, x_test=images[:8])
    for file in ("faces/olivetti_400x64x64.npz", "emoji/noto_emoji_rgba64.npz"):
        (tmp_path / file).parent.mkdir()
        np.savez(tmp_path / file, x=images)
    name, *part = script.split()
    file = tmp_path / "results" / "result.json"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("VAEKIT_DATA", None)  # they need nothing that only some machines have
    command = [sys.executable, str(ROOT / "benchmarks" / name), *part, *LITTLE[script], "--json", str(file)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads(file.read_text())
    assert written["environment"]["versions"]["torch"]
    assert written["results"]
