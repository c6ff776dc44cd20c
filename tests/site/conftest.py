"""Tests of the documentation: of its extension, and with ``--site FOLDER`` of the pages that were built."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "site" / "_ext"))
collect_ignore_glob = [] if find_spec("sphinx") is not None and find_spec("keras") is not None else ["test_*.py"]
"""They need what `pip install ".[docs]"` installs."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--site", type=Path, help="The built site, to check its pages.")


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest) -> Path:
    """The folder of the built site."""
    folder = request.config.getoption("--site", None)
    if folder is None:
        pytest.skip("needs the built site: pytest tests/site --site FOLDER")
    return Path(folder)
