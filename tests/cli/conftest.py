from __future__ import annotations

import zlib
from collections.abc import Callable

import pytest

from vaekit.cli import main


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--walk", type=float, default=1.0, help="Share of the walk over components to take; 0.3 is a third of it.")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep a share of the walk: the same tests each time, spread over components and operations."""
    share = config.getoption("--walk", 1.0)
    left_out = [
        item for item in items if item.path.name == "test_every_component.py" and zlib.crc32(item.name.encode()) >= share * 2**32
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Calls the command line with arguments; returns the exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call
