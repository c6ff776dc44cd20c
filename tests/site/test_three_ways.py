"""The same VAE in three ways reaches the same bound."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_three_ways_agree_and_the_script_fails_where_they_do_not(monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    script = runpy.run_path(str(EXAMPLES / "three_ways.py"))
    reached = script["main"](epochs=1, seeds=2)
    assert {name: len(bounds) for name, bounds in reached.items()} == {"from scratch": 2, "Keras": 2, "vaekit": 2}
    script["report"](reached)
    assert "standard deviation over seeds" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="do not agree"):
        script["report"]({"one": [-100.0, -101.0], "other": [-150.0, -151.0]})
