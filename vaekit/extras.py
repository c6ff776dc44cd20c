"""Optional dependencies, installed with one of vaekit's extras and imported on first use."""

from __future__ import annotations

import importlib
from typing import Any

from vaekit.errors import UsageError


def import_extra(module: str, extra: str, purpose: str) -> Any:
    """Import an optional dependency.

    Args:
        module: The module to import.
        extra: vaekit's extra that installs it.
        purpose: What needs it, such as ``the logger 'wandb'``.

    Raises:
        UsageError: The library is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{purpose} needs a library that is not installed", given=error, remedy=f'pip install "vaekit[{extra}]"'
        ) from None
