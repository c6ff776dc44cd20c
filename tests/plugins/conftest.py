"""Packages as an installer leaves them: modules and ``.dist-info`` folders in a directory on the path of a new process."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parents[2]

ENCODER = """
    import torch, vaekit

    @vaekit.encoders("{kind}")
    class Acme(vaekit.Backbone):
        '''One linear layer.

        Args:
            depth: Ignored.
        '''

        def __init__(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...], *, depth: int = 2) -> None:
            super().__init__(in_shape, out_shape)
            self.net = torch.nn.Sequential(
                torch.nn.Flatten(), torch.nn.LazyLinear({width}), torch.nn.LazyLinear(out_shape[0] * out_shape[1]),
                torch.nn.Unflatten(1, out_shape))
            with torch.no_grad():
                self(torch.zeros(1, *in_shape))

        def forward(self, x):
            return self.net(x)
"""


@dataclass
class Site:
    """A folder of installed packages, and processes that see it."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def install(
        self, distribution: str, module: str, source: str, entry_points: str, *, version: str = "1.2", requires: str = "vaekit"
    ) -> None:
        """Install a distribution of one module; ``entry_points`` are lines ``group: name = module:attribute``."""
        (self.folder / f"{module}.py").write_text(dedent(source), "utf-8")
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\nRequires-Dist: {requires}\n", "utf-8"
        )
        groups: dict[str, list[str]] = {}
        for line in dedent(entry_points).strip().splitlines():
            group, _, entry_point = line.partition(": ")
            groups.setdefault(group, []).append(entry_point)
        text = "\n".join(f"[vaekit.{group}]\n" + "\n".join(lines) for group, lines in groups.items())
        (info / "entry_points.txt").write_text(text + "\n", "utf-8")

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run python in a process that sees the packages."""
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

    def vaekit(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the command line."""
        return self.run("-m", "vaekit", *arguments, **environment)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    folder = tmp_path / "site"
    folder.mkdir()
    return Site(folder)
