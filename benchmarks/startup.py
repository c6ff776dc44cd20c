"""Response times of the command line and of a short run, without plugins and with 50 synthetic plugins installed.

    python benchmarks/startup.py [--repeats 15] [--json benchmarks/results/startup.json]

Each plugin consists of a module that imports torch and a ``.dist-info`` folder, in a folder on the path. Each command is a
separate process, and conditions alternate, so that other load on the machine affects all of them equally. For training, two
parts are shown as well: from the start of the process to the first step, and from the last step to the end of the process,
which includes validation, pictures, checkpoints and the evaluation on the test set. They come from the lines that ``--json``
prints: the first appears when training starts, and that of the epoch contains the duration of its steps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from common import write

ROOT = Path(__file__).resolve().parents[1]
GROUPS = ("encoders", "decoders", "losses", "datasets", "posteriors")
TRAIN = ["-m", "vaekit", "train", "--epochs", "1", "--device", "cpu", "--json"]
COMMANDS = {
    "python alone": ["-c", "pass"],
    "vaekit --version": ["-m", "vaekit", "--version"],
    "vaekit --help": ["-m", "vaekit", "--help"],
    "vaekit components list": ["-m", "vaekit", "components", "list"],
    "import torch": ["-c", "import torch"],
    "vaekit train --help": ["-m", "vaekit", "train", "--help"],
    "vaekit train, one epoch": TRAIN,
}


class Seconds(NamedTuple):
    """The duration of a process, and of its parts before the first and after the last training step, if it has any."""

    total: float
    to_first_step: float | None = None
    from_last_step: float | None = None


def install(folder: Path, num: int) -> None:
    """Write ``num`` plugins as installed distributions."""
    for i in range(num):
        name, group = f"vaekit_synthetic{i}", GROUPS[i % len(GROUPS)]
        (folder / f"{name}.py").write_text(f'import torch\n\n\nclass Synthetic:\n    """Number {i}."""\n', "utf-8")
        info = folder / f"{name}-1.{i}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vaekit-synthetic{i}\nVersion: 1.{i}\n", "utf-8")
        (info / "entry_points.txt").write_text(f"[vaekit.{group}]\nsynthetic{i} = {name}:Synthetic\n", "utf-8")


def measure(arguments: list[str], site: Path) -> Seconds:
    """Return the duration of a process; it runs in ``site``, where it may leave files."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]), "VAEKIT_PLUGINS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    start = time.perf_counter()
    events = {}
    with subprocess.Popen([sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, text=True, cwd=site) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith('{"event"'):
                event = json.loads(line)
                events[event["event"]] = time.perf_counter() - start, event
    total = time.perf_counter() - start
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    if not events:
        return Seconds(total)
    to_first_step = events["start"][0]
    return Seconds(total, to_first_step, total - to_first_step - events["epoch"][1]["seconds"])


def main() -> None:
    """Measure every command, then write and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sites = {num: Path(folder) / str(num) for num in (0, 50)}
        for num, site in sites.items():
            site.mkdir()
            install(site, num)
        conditions = [(name, num) for name in COMMANDS for num in sites]
        for name, num in conditions:  # the first run of each compiles bytecode
            measure(COMMANDS[name], sites[num])
        seconds: dict[tuple[str, int], list[Seconds]] = {condition: [] for condition in conditions}
        for _ in range(arguments.repeats):
            for name, num in conditions:
                seconds[name, num].append(measure(COMMANDS[name], sites[num]))
    rows = []
    for (name, num), measured in seconds.items():
        for label, *values in zip(("", ": to first step", ": from last step"), *measured, strict=True):
            if None not in values:
                row = {"median_seconds": round(statistics.median(values), 4), "fastest_seconds": round(min(values), 4)}
                rows.append({"command": name + label, "plugins": num, **row})
    write(arguments.json, os.cpu_count() or 1, rows, repeats=arguments.repeats)
    for row in rows:
        times = f"median {row['median_seconds']:.3f} s  fastest {row['fastest_seconds']:.3f} s"
        print(f"{row['command']:<40}{row['plugins']:>3} plugins  {times}")


if __name__ == "__main__":
    main()
