from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from harness import Commands

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
def size(request: pytest.FixtureRequest) -> Callable[[int], int]:
    """How many of a number of cases this campaign has."""
    scale = request.config.getoption("--campaign", default=1.0)
    return lambda cases: max(1, round(cases * scale))


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Record what a test has counted, for the summary."""

    def tally(cases: str, total: int, **counts: int) -> None:
        parts = "".join(f", {name.replace('_', ' ')} {number:,}" for name, number in counts.items())
        record_property("campaign", f"{cases}: {total:,}{parts}")

    return tally


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """Runs commands in processes of their own."""
    return Commands(tmp_path_factory.mktemp("output"))


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 120 grey images of 9×7."""
    folder = tmp_path_factory.mktemp("ground")
    np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 256, (120, 9, 7), dtype=np.uint8))
    return folder
