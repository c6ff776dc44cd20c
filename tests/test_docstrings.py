"""The examples in docstrings run and print the documented output."""

from __future__ import annotations

import ast
import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import vaekit

ROOT = Path(__file__).parents[1]
EXTRAS = {"vaekit.sweeps.search": "optuna"}
"""Libraries required by the examples of a module."""


FILES = sorted(file for file in ROOT.glob("vaekit/**/*.py") if ">>> " in file.read_text("utf-8"))
MODULES = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in FILES}


def docstrings(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the docstrings of a file with their lines: doctest's finder misses those of cached properties."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Use one thread: the examples train small models, which do not benefit from more if processors are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("forgotten_components", "one_thread")
@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run_and_print_the_stated_output(name, tmp_path, monkeypatch):
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    monkeypatch.chdir(tmp_path)
    names = {**vars(importlib.import_module(name)), "torch": torch, "vaekit": vaekit}
    runner, report = doctest.DocTestRunner(verbose=False), []
    for line, text in docstrings(MODULES[name]):
        test = doctest.DocTestParser().get_doctest(text, names, name, str(MODULES[name]), line)
        assert not any(example.options.get(doctest.SKIP) for example in test.examples), f"an example is skipped, line {line}"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            runner.run(test, out=report.append)
    assert runner.tries > 0
    assert not runner.failures, "".join(report)
