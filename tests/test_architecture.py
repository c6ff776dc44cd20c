"""The structure of the package: no two files import each other, even indirectly, including type-only imports."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import vaekit

ROOT = Path(vaekit.__file__).parent


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in ROOT.rglob("*.py")}
FACES = {"vaekit", "vaekit.data"}
"""Packages that only re-export names of their modules, loaded on first use."""


def imported_by(file: Path) -> Iterator[str]:
    """Yield the modules of vaekit that a file imports, including those in functions and for types."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.split(".")[0] == "vaekit":
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in MODULES else node.module
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)


def test_no_files_import_each_other() -> None:
    graph = {name: set(imported_by(file)) - {name} for name, file in MODULES.items() if name not in FACES}
    graphlib.TopologicalSorter(graph).prepare()  # which raises an error that names the cycle


@pytest.mark.parametrize("name", ["vaekit.interfaces", "vaekit.registry", "vaekit.roles"])
def test_the_base_layer_names_no_exporter_logger_picture_or_run(name: str) -> None:
    rooms = {module.split(".")[1] for module in imported_by(MODULES[name])}
    assert not rooms & {"export", "training", "pictures", "store", "run", "report"}


def test_no_module_imports_the_public_api() -> None:
    importers = [name for name, file in MODULES.items() if "vaekit" in set(imported_by(file))]
    assert importers == []
