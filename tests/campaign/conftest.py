from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from harness import Campaign, Commands


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--campaign", type=float, default=1.0, help="Size of the fault campaign; 0.1 is a tenth of it.")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the counts of all tests."""
    reports = [report for key in ("passed", "failed", "xfailed") for report in terminalreporter.stats.get(key, [])]
    lines = [str(text) for report in reports for name, text in report.user_properties if name == "campaign"]
    if lines:
        terminalreporter.section("campaign")
        terminalreporter.write_line("\n".join(sorted(lines)))


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """Runs commands in separate processes."""
    return Commands(tmp_path_factory.mktemp("output"))


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 120 grey images of 9×7."""
    file = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(file, np.random.default_rng(0).integers(0, 256, (120, 9, 7), dtype=np.uint8))
    return file


@pytest.fixture(scope="module")
def work(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for runs shared by the tests of a file, next to a copy of the images."""
    folder = tmp_path_factory.mktemp("shared")
    shutil.copy(images, folder)
    (folder / "work").mkdir()
    return folder / "work"


@pytest.fixture
def campaign(
    request: pytest.FixtureRequest,
    commands: Commands,
    images: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> Campaign:
    """A test's part of the campaign, in a folder with a copy of the images."""
    shutil.copy(images, tmp_path)
    return Campaign(request.config.getoption("--campaign", default=1.0), commands, tmp_path, record_property)
