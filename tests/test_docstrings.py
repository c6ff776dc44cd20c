"""The examples in docstrings run, and print what they say."""

from __future__ import annotations

import doctest
import importlib
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

import vaekit
from vaekit.roles import REGISTRIES

ROOT = Path(__file__).parents[1]
EXTRAS = {"vaekit.sweeps.search": "optuna"}
"""Libraries without which the examples of a module cannot run."""


def with_examples() -> list[str]:
    """Return the names of the modules whose text has examples; they are not imported."""
    files = sorted(file for file in ROOT.glob("vaekit/**/*.py") if ">>> " in file.read_text("utf-8"))
    return [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]


@pytest.fixture
def forgotten_components():
    """Forget the components that a test registers, but not the built-in ones that it is the first to import."""
    with ExitStack() as stack:
        for registry in REGISTRIES:
            for kind in registry.kinds():
                if registry.origin(kind).distribution == "vaekit":
                    registry.get(kind)
            stack.enter_context(registry.temporarily())
        yield


@pytest.mark.usefixtures("forgotten_components")
@pytest.mark.parametrize("name", with_examples())
def test_the_examples_of_a_module_run_and_print_what_they_say(name, tmp_path, monkeypatch):
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    tests = doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs={"torch": torch, "vaekit": vaekit})
    examples = [example for test in tests for example in test.examples]
    assert len(examples) == Path(module.__file__).read_text("utf-8").count(">>> "), "an example where doctest does not look"
    assert not any(example.options.get(doctest.SKIP) for example in examples)
    runner = doctest.DocTestRunner(verbose=False)
    with torch.random.fork_rng(devices=[]):
        for test in tests:
            torch.manual_seed(0)
            report: list[str] = []
            runner.run(test, out=report.append)
            assert not runner.failures, "".join(report)
