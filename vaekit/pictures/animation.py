"""Animations of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vaekit.errors import DataError
from vaekit.files import write_atomically

HOLD_MS = 1500
"""How long the last frame stands."""


def write_gif(frames: Sequence[Path], path: Path, *, milliseconds: int = 200) -> None:
    """Write PNG files as a looping GIF, in order, the last one held.

    Raises:
        DataError: There are no frames.
    """
    from PIL import Image

    if not frames:
        raise DataError(f"no frames to animate into {path}")
    images = [Image.open(frame) for frame in frames]
    durations = [milliseconds] * (len(images) - 1) + [HOLD_MS]
    write_atomically(
        path,
        lambda temporary: images[0].save(
            temporary, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=False
        ),
    )
