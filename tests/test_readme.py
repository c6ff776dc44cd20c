"""What the README says of extensions is run as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def block_after(heading: str, language: str) -> str:
    """Return the first fenced block of a language below a heading of the README."""
    readme = (ROOT / "README.md").read_text("utf-8")
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", readme, re.MULTILINE | re.DOTALL)
    if section is None:
        pytest.skip(f"the README has no section {heading!r}")
    block = re.search(rf"^```{language}\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
    assert block is not None, f"no {language} block below {heading!r}"
    return block[1]


def test_backbone_in_20_lines_passes_the_checks_and_trains(tmp_path: Path) -> None:
    code = block_after("Write a backbone in 20 lines", "python")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "runs").glob("*/model.safetensors"))


def test_the_same_backbone_as_a_package_is_found_by_its_entry_point(tmp_path: Path) -> None:
    code = block_after("Write a backbone in 20 lines", "python")
    announced = block_after("Write a backbone in 20 lines", "toml")
    (tmp_path / "acme.py").write_text(code.partition("\ncheck_encoder(")[0] + "\n", "utf-8")
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n", "utf-8")
    table, _, entry_point = announced.strip().rpartition("\n")
    group = re.fullmatch(r'\[project\.entry-points\."(.*)"\]', table)
    assert group is not None
    (info / "entry_points.txt").write_text(f"[{group[1]}]\n{entry_point.replace(chr(34), '')}\n", "utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "VAEKIT_PLUGINS": "1"}
    command = [sys.executable, "-m", "vaekit", "plugins", "check", "mine"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "encoder mine  (acme 1.0)" in done.stdout
