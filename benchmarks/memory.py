"""Peak memory of training on MNIST above that of importing torch, and its composition; and of `vaekit embed`.

    python benchmarks/memory.py [--threads 2] [--json benchmarks/results/memory.json]

Each stage is a separate process, whose peak memory is reported by the operating system: importing torch, creating one of its
optimisers (which loads torch's compiler, unlike vaekit's), and `vaekit train` for one epoch. MNIST is read as by `vaekit train`.

`vaekit embed` then writes the codes of tables of 100,000 and of 1,000,000 rows of 16 numbers. Their files are streamed, so both
take the same memory, except for the row numbers: 8 bytes each.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import write

DATA = 70_000 * 28 * 28
STAGES = {
    "torch imported": "import torch",
    "and an optimiser": "import torch; torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])",
    "vaekit train": "import sys; from vaekit.cli import main; sys.exit(main(sys.argv[1:]))",
}
ROWS, COLUMNS = (10**5, 10**6), 16
UNIT = 1 if sys.platform == "darwin" else 1024


def peak(code: str, arguments: list[str]) -> int:
    """Return the peak memory of a Python process in bytes."""
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{code} failed")
    return usage.ru_maxrss * UNIT


def embedding(folder: Path, threads: int) -> dict[str, int]:
    """Return the peak memory of embedding each number of rows, in bytes."""
    rng, peaks = np.random.default_rng(0), {}
    for rows in ROWS:
        table = np.lib.format.open_memmap(folder / f"{rows}.npy", "w+", np.float32, (rows, COLUMNS))
        for start in range(0, rows, 10**5):
            table[start : start + 10**5] = rng.normal(size=(10**5, COLUMNS))
        del table
    np.save(folder / "few.npy", np.load(folder / f"{ROWS[0]}.npy", mmap_mode="r")[:2000])
    code, run = STAGES["vaekit train"], str(folder / "table")
    data = ["--dataset", "array", "--dataset.path", str(folder / "few.npy"), "--likelihood.link", "identity", "--latent-dim", "4"]
    peak(code, ["train", *data, "--epochs", "1", "--device", "cpu", "--threads", str(threads), "--quiet", "--out", run])
    for rows in ROWS:
        given = ["embed", run, str(folder / f"{rows}.npy"), "--out", str(folder / f"{rows}.parquet"), "--device", "cpu"]
        peaks[f"embed {rows:,} rows"] = peak(code, given)
    return peaks


def main() -> None:
    """Measure each stage and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results: dict[str, int] = {"data": DATA}
    with tempfile.TemporaryDirectory() as folder:
        given = ["train", "--dataset", "mnist", "--epochs", "1", "--device", "cpu", "--quiet", "--out", f"{folder}/run"]
        for name, code in STAGES.items():
            results[name] = peak(code, [*given, "--threads", str(arguments.threads)] if name == "vaekit train" else [])
            print(f"{name:18} {results[name] / 1e6:7.0f} MB", flush=True)
        embedded = embedding(Path(folder), arguments.threads)
    results["above torch"] = results["vaekit train"] - results["torch imported"]
    print(f"above torch        {results['above torch'] / 1e6:7.0f} MB; the data are {DATA / 1e6:.0f} MB")
    for name, size in embedded.items():
        print(f"{name:18} {size / 1e6:7.0f} MB", flush=True)
    results |= embedded
    write(arguments.json, arguments.threads, results)


if __name__ == "__main__":
    main()
