"""Pictures as parts of a page: small enough to e-mail, with descriptions for screen readers."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from vaekit.drawing.animation import evenly

WIDEST = 1200
"""The number of pixels above which a picture is shrunk."""
LARGEST = 100_000
"""The number of bytes above which a picture is compressed lossily."""
MOVING, FRAMES = 420, 48
"""The largest width and number of frames of an animation."""


def image_tag(image: Image.Image, alt: str, attributes: str = "") -> str:
    """Return an ``<img>`` that holds the picture itself."""
    if image.width > WIDEST:
        image = image.resize((WIDEST, round(image.height * WIDEST / image.width)), Image.Resampling.LANCZOS)
    kind, data = "png", io.BytesIO()
    image.save(data, "PNG")
    if data.tell() > LARGEST:
        kind, data = "webp", io.BytesIO()
        image.convert("RGB").save(data, "WEBP", quality=88)
    return _tag(kind, data.getvalue(), image.size, alt, attributes)


def animation_tag(frames: Sequence[Image.Image], alt: str) -> str:
    """Return an ``<img>`` that holds an animation, shrunk and thinned where it is large."""
    duration = frames[0].info.get("duration", 100)
    frames = [frame.convert("RGB") for frame in evenly(frames, FRAMES)]
    for frame in frames:
        frame.thumbnail((MOVING, 4 * MOVING))
    data = io.BytesIO()
    duration = max(80, min(300, int(duration)))
    frames[0].save(data, "WEBP", save_all=True, append_images=frames[1:], duration=duration, loop=0, quality=70)
    return _tag("webp", data.getvalue(), frames[0].size, alt, "")


def slideshow(title: str, steps: Sequence[tuple[str, Image.Image]], alt: str) -> str:
    """Return pictures with a slider that shows one at a time; without scripts, all are shown, one below the other."""
    images = "".join(image_tag(image, f"{alt}, {step}", f'data-step="{escape(step)}"') for step, image in steps)
    last = len(steps) - 1
    slider = (
        f"<p hidden><label><output>{escape(steps[-1][0])}</output><br>"
        f'<input type="range" min="0" max="{last}" value="{last}" aria-label="{escape(title)}"></label></p>'
    )
    return f"<figure data-steps><figcaption><strong>{escape(title)}</strong></figcaption>{slider}{images}</figure>"


def figure(title: str, tag: str) -> str:
    """Return a picture with its title."""
    return f"<figure><figcaption><strong>{escape(title)}</strong></figcaption>{tag}</figure>"


def _tag(kind: str, data: bytes, size: tuple[int, int], alt: str, attributes: str) -> str:
    source = base64.b64encode(data).decode("ascii")
    return f'<img src="data:image/{kind};base64,{source}" width="{size[0]}" height="{size[1]}" alt="{escape(alt)}" {attributes}>'
