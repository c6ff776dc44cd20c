"""The header of model files and checkpoints, read without the weights and without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from vaekit.errors import CheckpointError, reason_of

FORMAT = "vaekit-3"
"""The key of vaekit's metadata, a single JSON text, so that equal contents produce equal files."""
LARGEST = 100_000_000
"""The largest header in bytes, as in safetensors itself."""


class FileHeader(NamedTuple):
    """The header of a model file or checkpoint.

    Args:
        metadata: The metadata as they were written: ``spec``, ``facts``, ``data``, ``versions`` and ``state``.
        shapes: The shape of each tensor.
    """

    metadata: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]


def read_header(path: Path) -> FileHeader:
    """Read the header of a model file; only its form is validated.

    Raises:
        CheckpointError: The file is missing, damaged or not vaekit's.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size) if size <= LARGEST else b"")
        metadata = json.loads(header.pop("__metadata__")[FORMAT])
        shapes = {name: tuple(map(int, tensor["shape"])) for name, tensor in header.items()}
        if not all(isinstance(metadata[part], dict) for part in ("spec", "facts", "versions", "state")):
            raise TypeError("metadata")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read", given=error.strerror) from None
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged, or was not written by vaekit", given=reason_of(error), expected=f"safetensors, metadata {FORMAT}"
        ) from None
    return FileHeader(metadata, shapes)
