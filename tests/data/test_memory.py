"""Streaming under a limit on private memory, enforced by the system.

The limit, RLIMIT_DATA, applies to each process separately, workers included. Pages of a mapped file are not private memory: the
system reclaims them when needed.
"""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vaekit

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is enforced by Linux")

CAPPED = """
import resource, sys
def cap(megabytes):
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    limit = int(status["VmData"].split()[0]) * 1024 + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
"""

STREAM = """
import torch
from vaekit.data import Batches
from vaekit.roles import datasets
from vaekit.streams import Streams
from vaekit.compute.process import keep_freed_memory

def load(memory_gb):
    return datasets.build(datasets.spec(sys.argv[1])(path=sys.argv[2], memory_gb=memory_gb)).load().train

torch.set_num_threads(1)
keep_freed_memory()  # as the trainer does
source = load(0.0)
batches = Batches(source, batch_size=4, streams=Streams(0), workers=1)
next(batches.epoch(0))  # what reading takes by itself
cap(int(sys.argv[3]))
print(sum(len(batch.x) for batch in batches.epoch(1)), flush=True)
del batches  # its worker ends before memory does
list(source.files) if sys.argv[1] == "huggingface" else load(4.0)
print("whole")
"""


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CAPPED + code, *map(str, arguments)]
    root = Path(__file__).parents[2]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600, check=False)


def write_array(folder: Path, megabytes: int, side: int = 64) -> tuple[str, Path]:
    """A sparse file of zeros."""
    shape = (megabytes * 2**20 // (3 * side * side), 3, side, side)
    np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, shape)
    return "array", folder / "images.npy"


def write_table(folder: Path, megabytes: int, side: int = 64) -> tuple[str, Path]:
    """Small pictures in large files, which are fast to decode."""
    library = pytest.importorskip("datasets")
    file = io.BytesIO()
    Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(file, "BMP")
    row = {"image": file.getvalue().ljust(2**19, b"\0")}
    with library.arrow_writer.ArrowWriter(path=str(folder / "shard.arrow"), writer_batch_size=64) as writer:
        for _ in range(2 * megabytes):
            writer.write(row)
        writer.finalize()
    library.Dataset.from_file(str(folder / "shard.arrow")).save_to_disk(folder / "set", num_shards=4)
    return "huggingface", folder / "set"


@pytest.mark.parametrize("write", [write_array, write_table])
def test_a_set_ten_times_the_cap_streams_where_reading_it_whole_fails(tmp_path, write):
    budget = 48
    kind, path = write(tmp_path, 10 * budget)
    result = run(STREAM, kind, path, budget)
    assert result.returncode != 0  # an error, or an abort if a thread cannot allocate memory
    (num,) = result.stdout.split() or [result.stderr]
    assert int(num) > 700


TRAIN = """
import contextlib
import torch._dynamo, vaekit.cli, vaekit.training.trainer
with contextlib.suppress(ImportError):
    import datasets
cap(int(sys.argv.pop(1)))
sys.exit(vaekit.cli.main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_array, write_table])
def test_training_streams_a_set_ten_times_the_cap(tmp_path, write):
    budget = 256
    kind, path = write(tmp_path, 10 * budget)
    data = ("--dataset", kind, "--dataset.path", path, "--dataset.memory-gb", 0.1)
    model = ("--encoder", "mlp", "--encoder.hidden", 8, "--decoder", "mlp", "--decoder.hidden", 8, "--latent-dim", 2)
    options = ("--epochs", 1, "--batch-size", 64, "--threads", 1, "--device", "cpu", "--workers", 1, "--out", tmp_path / "run")
    result = run(TRAIN, budget, "train", *data, *model, *options)
    assert result.returncode == 0, result.stderr


EMBED = """
import pyarrow.parquet, vaekit.cli, vaekit.run
cap(int(sys.argv.pop(1)))
sys.exit(vaekit.cli.main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["codes.parquet", "codes.npz", "codes.npy"])
def test_the_codes_of_a_million_rows_are_written_as_they_are_computed(tmp_path, name):
    budget, num = 256, 10**6  # kept until the end, with what else batches have to leave room for, the codes would take 700 MiB
    rows = np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", np.float32, (num, 16))
    rows[:] = np.random.default_rng(0).normal(size=16)
    np.save(tmp_path / "few.npy", rows[:200])
    data = {"dataset": "array", "dataset.path": str(tmp_path / "few.npy"), "likelihood.link": "identity"}
    model = {"latent_dim": 4, "epochs": 1, "pictures": "none", "device": "cpu", "threads": 1}
    run_folder = vaekit.train(**data, **model, out=tmp_path / "run").path
    arguments = ("embed", run_folder, tmp_path / "rows.npy", "--out", tmp_path / name, "--device", "cpu")
    result = run(EMBED, budget, *arguments)
    assert result.returncode == 0, result.stderr
    assert f"{num:,} rows" in result.stdout
