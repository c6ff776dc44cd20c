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
    """Frames of one size, and how long each of them and the last one are shown, in milliseconds."""

    frames: Sequence[Image.Image]
    milliseconds: int = 200
    hold: int = HOLD_MS


def evenly(items: Sequence[T], most: int) -> list[T]:
    """Return at most ``most`` of the items, at even intervals, including the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def write_animation(frames: Sequence[Image.Image], path: Path, *, milliseconds: int = 200, hold: int = HOLD_MS) -> None:
    """Write frames in order as a looping GIF, WebP or AVIF, depending on the suffix.

    Args:
        frames: Images of one size.
        path: The file.
        milliseconds: How long each frame is shown.
        hold: How long the last frame is shown.

    Raises:
        DataError: There are no frames.
        UsageError: The suffix is not that of an animation format.
    """
    if not frames:
        raise DataError(f"no frames to animate into {path}")
    if path.suffix.lower() not in ANIMATED:
        raise UsageError("animations are not written in this format", given=path, expected=", ".join(ANIMATED))
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
