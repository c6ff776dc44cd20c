"""Ticks, axes, and a colour-blind-safe palette."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vaekit.drawing.text import INK, PAPER, TEXT, text_width, write

if TYPE_CHECKING:
    from PIL.Image import Image

FAINT = "#d9d9d9"
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#882255", "#117733", "#999933", "#555555")
"""Six of Okabe and Ito's colours, three of Tol's muted ones and a grey; beyond ten groups, shapes vary as well."""
SCALE = 2
"""Charts are drawn larger by this factor and then downscaled, because Pillow's lines are not antialiased."""


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Return about ``count`` round numbers from ``low`` to ``high``."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [(first + i) * step for i in range(math.floor(high / step + 1e-9) - first + 1)]


def number(value: float) -> str:
    """Format a number with three significant digits, or as an integer from 1,000 on."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


class Axes:
    """A square chart with ticks for points, lines and text.

    Args:
        x: Range of the horizontal axis.
        y: Range of the vertical axis.
        labels: Labels of the axes.
        title: The title.
        side: Side length of the plot in pixels.
        legend: Width reserved for a legend on the right, in pixels.
        rows: Labels at 0, 1, 2, … of the vertical axis; default: round numbers.
    """

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        labels: tuple[str, str],
        title: str,
        *,
        side: int = 640,
        legend: int = 0,
        rows: Sequence[str] | None = None,
    ) -> None:
        from PIL import Image, ImageDraw

        self.x, self.y, self.side = x, y, side
        self.rows = {v: number(v) for v in ticks(*y)} if rows is None else dict(enumerate(rows))
        self.left = 40 + max((text_width(name) for name in self.rows.values()), default=0)
        self.top, right, bottom = 36, 16 + legend, 52
        self.size = (self.left + side + right, self.top + side + bottom)
        self.image = Image.new("RGB", (self.size[0] * SCALE, self.size[1] * SCALE), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self._frame(labels, title)

    def _frame(self, labels: tuple[str, str], title: str) -> None:
        from PIL import Image, ImageDraw

        x0, y0, x1, y1 = self.left, self.top, self.left + self.side, self.top + self.side
        for value in ticks(*self.x):
            at = self.at(value, self.y[0])[0]
            self.line([(at, y0), (at, y1)], FAINT)
            self.text((at, y1 + 6), number(value), "mt")
        for value, name in self.rows.items():
            at = self.at(self.x[0], value)[1]
            self.line([(x0, at), (x1, at)], FAINT)
            self.text((x0 - 6, at), name, "rm")
        self.line([(x0, y0), (x0, y1), (x1, y1)], INK)
        self.text((x0, 10), title, "lt", TEXT + 2)
        self.text(((x0 + x1) / 2, y1 + 28), labels[0], "mt")
        width = text_width(labels[1]) + 8
        upright = Image.new("RGB", (width * SCALE, 22 * SCALE), PAPER)
        write(ImageDraw.Draw(upright), (upright.width / 2, upright.height / 2), labels[1], anchor="mm", size=TEXT * SCALE)
        self.image.paste(upright.rotate(90, expand=True), (4 * SCALE, round(((y0 + y1) / 2 - width / 2) * SCALE)))

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixel position of a data point."""
        return (
            self.left + (x - self.x[0]) / (self.x[1] - self.x[0]) * self.side,
            self.top + self.side - (y - self.y[0]) / (self.y[1] - self.y[0]) * self.side,
        )

    def line(self, points: list[tuple[float, float]], colour: str, width: float = 1) -> None:
        """Draw a line through pixel positions."""
        self.draw.line([(a * SCALE, b * SCALE) for a, b in points], fill=colour, width=max(1, round(width * SCALE)))

    def text(self, at: tuple[float, float], text: str, anchor: str = "lm", size: int = TEXT) -> None:
        """Write text at a pixel position."""
        write(self.draw, (at[0] * SCALE, at[1] * SCALE), text, anchor=anchor, size=size * SCALE)

    def mark(self, at: tuple[float, float], group: int, radius: float = 2.6) -> None:
        """Draw the marker of a group at a pixel position; once all colours are used, the shape changes."""
        x, y, r = at[0] * SCALE, at[1] * SCALE, radius * SCALE
        colour, shape = PALETTE[group % len(PALETTE)], group // len(PALETTE) % 3
        if shape == 0:
            self.draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        elif shape == 1:
            self.draw.rectangle((x - r, y - r, x + r, y + r), fill=colour)
        else:
            self.draw.polygon([(x, y - 1.4 * r), (x + 1.3 * r, y + r), (x - 1.3 * r, y + r)], fill=colour)

    def finish(self) -> Image:
        """Return the chart at its final size."""
        from PIL import Image

        return self.image.resize(self.size, Image.Resampling.LANCZOS)
