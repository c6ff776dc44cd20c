from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data: VAEKIT_DATA, else ../shared/data from the project's root."""
    folder = Path(os.environ.get("VAEKIT_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (folder / "MNIST" / "raw").is_dir():
        pytest.skip(f"no real data in {folder}; set VAEKIT_DATA to a folder that holds MNIST/raw")
    return folder
