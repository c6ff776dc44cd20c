"""Libraries that are installed with an extra of vaekit's, and imported when they are used."""

from __future__ import annotations

import importlib
from typing import Any

from vaekit.errors import UsageError


def import_extra(module: str, extra: str, purpose: str) -> Any:
    """Import a library that need not be installed.

    Args:
        module: What is imported.
        extra: The extra of vaekit's that installs it.
        purpose: What needs it, as ``the logger 'wandb'``.

    Raises:
        UsageError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{purpose} needs a library that is not installed", given=error, remedy=f'pip install "vaekit[{extra}]"'
        ) from None
