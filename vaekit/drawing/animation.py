"""Animations. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from vaekit.errors import DataError, UsageError
from vaekit.files import write_atomically

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")
HOLD_MS = 1500
"""How long the last frame is shown."""
ANIMATED = {".gif": "GIF", ".webp": "WEBP", ".avif": "AVIF"}


class Animation(NamedTuple):
    """Frames of one size, and the durations of each frame and of the last one in milliseconds."""

    frames: Sequence[Image.Image]
    milliseconds: int = 200
    hold: int = HOLD_MS


def evenly(items: Sequence[T], most: int) -> list[T]:
    """Return at most ``most`` evenly spaced items, including the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def write_animation(frames: Sequence[Image.Image], path: Path, *, milliseconds: int = 200, hold: int = HOLD_MS) -> None:
    """Write frames as a looping GIF, WebP or AVIF, depending on the suffix.

    Args:
        frames: Images of one size.
        path: The file.
        milliseconds: Duration of each frame.
        hold: Duration of the last frame.

    Raises:
        DataError: There are no frames.
        UsageError: The suffix is not that of an animation format.
    """
    if not frames:
        raise DataError(f"no frames to animate into {path}")
    if path.suffix.lower() not in ANIMATED:
        raise UsageError("unsupported animation format", given=path, expected=", ".join(ANIMATED))
    durations = [milliseconds] * (len(frames) - 1) + [hold]
    write_atomically(
        path,
        lambda temporary: frames[0].save(
            temporary,
            ANIMATED[path.suffix.lower()],
            save_all=True,
            append_images=frames[1:],
            duration=durations,
            loop=0,
            optimize=False,
        ),
    )
