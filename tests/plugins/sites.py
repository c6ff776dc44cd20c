"""Installed packages: modules and ``.dist-info`` folders in a directory on the path of a new process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

ENCODER = '''
import torch, vaekit

@vaekit.encoders("{kind}")
class Acme(vaekit.Backbone):
    """Two linear layers.

    Args:
        depth: Ignored.
    """

    def __init__(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...], *, depth: int = 2) -> None:
        super().__init__(in_shape, out_shape)
        size = torch.Size(in_shape).numel()
        self.net = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(size, {width}), torch.nn.Linear({width}, out_shape[0] * out_shape[1]),
            torch.nn.Unflatten(1, out_shape))

    def forward(self, x):
        return self.net(x)
'''

COMMANDS = """
import io, json, shlex, sys
from contextlib import redirect_stderr, redirect_stdout
from vaekit.cli import main

results = []
for command in sys.argv[1:]:
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main(shlex.split(command))
    results.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(results))
"""


class Done(NamedTuple):
    """The outcome of a command."""

    code: int
    out: str
    err: str


@dataclass
class Site:
    """A folder of installed packages, and processes that can import them."""

    folder: Path

    def install(
        self, distribution: str, module: str, source: str, entry_points: str, *, version: str = "1.2", requires: str = "vaekit"
    ) -> None:
        """Install a distribution of one module; ``entry_points`` are lines ``group: name = module:attribute``."""
        (self.folder / f"{module}.py").write_text(source, "utf-8")
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\nRequires-Dist: {requires}\n"
        (info / "METADATA").write_text(metadata, "utf-8")
        groups: dict[str, list[str]] = {}
        for line in dedent(entry_points).strip().splitlines():
            group, _, entry_point = line.partition(": ")
            groups.setdefault(group, []).append(entry_point)
        text = "\n".join(f"[vaekit.{group}]\n" + "\n".join(lines) for group, lines in groups.items())
        (info / "entry_points.txt").write_text(text + "\n", "utf-8")

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Python in a process that can import the packages."""
        path = os.pathsep.join([str(self.folder), str(ROOT)])
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": path, "VAEKIT_PLUGINS": "1", "OMP_NUM_THREADS": "1"} | environment,
            check=False,
        )

    def vaekit(self, *commands: str, **environment: str) -> list[Done]:
        """Run command lines one after another in one process; return their outcomes."""
        done = self.run("-c", COMMANDS, *commands, **environment)
        assert done.returncode == 0, done.stderr
        return [Done(*result) for result in json.loads(done.stdout)]
