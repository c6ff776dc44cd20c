"""A chart of many panels in SVG, each a cost against a size relative to the smallest, with logarithmic axes of one scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

DECADE, WIDE, HIGH = 52, 4.3, 3.6
"""The pixels of a factor of ten, and the factors of ten that a panel holds in both directions."""
LEFT, TOP, RIGHT, BOTTOM = 34, 42, 66, 34
COLUMNS, LINE = 4, 13
TIME, MEMORY, INK, FAINT = "#0072B2", "#D55E00", "#333333", "#cccccc"
STYLE = f"font-family='system-ui, sans-serif' font-size='11' fill='{INK}'"


class Panel(NamedTuple):
    """A panel.

    Args:
        title: The size, and what is measured.
        times: Sizes and milliseconds.
        memory: Sizes and megabytes.
        slope: The exponent of the work itself, drawn as a reference.
        predicted: Sizes and milliseconds that were not measured, from the last one measured on.
    """

    title: str
    times: Sequence[tuple[float, float]]
    memory: Sequence[tuple[float, float]] = ()
    slope: int = 1
    predicted: Sequence[tuple[float, float]] = ()


def draw(panels: Sequence[Panel]) -> str:
    """Return the chart."""
    width, height = LEFT + WIDE * DECADE + RIGHT, TOP + HIGH * DECADE + BOTTOM
    rows = math.ceil(len(panels) / COLUMNS)
    size = f"{COLUMNS * width + 20:.0f}", f"{rows * height + 40:.0f}"
    parts = [
        f"<g transform='translate({10 + i % COLUMNS * width:.1f},{32 + i // COLUMNS * height:.1f})'>{_panel(panel)}</g>"
        for i, panel in enumerate(panels)
    ]
    legend = (
        f"<text x='{10 + LEFT}' y='22' font-size='13'>Cost relative to that of the smallest size: "
        f"<tspan fill='{TIME}' font-weight='600'>time</tspan>, <tspan fill='{MEMORY}' font-weight='600'>peak memory</tspan>. "
        "Grey: in proportion to the work. Dashed: predicted by a model.</text>"
    )
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {size[0]} {size[1]}' width='{size[0]}' height='{size[1]}' {STYLE}>"
        f"<title>How cost grows with size</title><rect width='100%' height='100%' fill='white'/>{legend}{''.join(parts)}</svg>\n"
    )


def _panel(panel: Panel) -> str:
    size, low = panel.times[0][0], -0.9 if panel.slope < 0 else -0.35
    last = (panel.predicted or panel.times)[-1][0]
    span, floor, right = math.log10(last / size), TOP + HIGH * DECADE, LEFT + WIDE * DECADE

    def at(point: tuple[float, float], base: float = 1.0) -> tuple[float, float]:
        return LEFT + math.log10(point[0] / size) * DECADE, TOP + (HIGH + low - math.log10(point[1] / base)) * DECADE

    parts = [_text((LEFT, 16), escape(panel.title), INK, more="font-weight='600' font-size='12'")]
    for power in range(math.ceil(low), math.floor(HIGH + low) + 1):
        y = at((size, 10.0**power))[1]
        parts.append(_line([(LEFT, y), (right, y)], "#eeeeee", 1))
        parts.append(_text((LEFT - 5, y + 4), f"{10.0**power:g}", "#777777", more="text-anchor='end'"))
    for value in (size, last):
        x = at((value, 1))[0]
        anchor = "middle" if value == last and span > 0.8 else "start"
        parts.append(_line([(x, floor), (x, floor + 4)], INK, 1))
        parts.append(_text((x, floor + 16), _count(value), INK, more=f"text-anchor='{anchor}'"))
    parts.append(_line([(LEFT, floor), (right, floor)], INK, 1))
    reach = min(span, (HIGH + low if panel.slope > 0 else low) / panel.slope)
    parts.append(_line([at((size, 1)), at((size * 10**reach, 10 ** (panel.slope * reach)))], FAINT, 5))
    bases: list[str] = []
    ends: list[tuple[tuple[float, float], str, str]] = []
    for points, colour, text in ((panel.memory, MEMORY, _megabytes), (panel.times, TIME, _milliseconds)):
        if not points:
            continue
        base = points[0][1]
        places = [at(point, base) for point in points]
        parts += [_line(places, colour), *(_dot(place, colour) for place in places)]
        bases.append(f"<tspan fill='{colour}'>{text(base)}</tspan>")
        ends.append((places[-1], text(points[-1][1]), colour))
    if panel.predicted:
        places = [at(point, panel.times[0][1]) for point in panel.predicted]
        parts.append(_line(places, TIME, dash="4 3"))
        ends[-1] = (places[-1], _milliseconds(panel.predicted[-1][1]), TIME)
    parts.append(_text((LEFT, 32), f"1 is {', '.join(reversed(bases))}", INK))
    ends.sort(key=lambda end: end[0][1])
    heights = [end[0][1] for end in ends]
    if len(heights) == 2 and (near := LINE - (heights[1] - heights[0])) > 0:
        heights = [heights[0] - near / 2, heights[1] + near / 2]
    for ((x, _), label, colour), y in zip(ends, heights, strict=True):
        parts.append(_text((x + 7, y + 4), label, colour))
    return "".join(parts)


def _line(places: Sequence[tuple[float, float]], colour: str, width: float = 1.8, dash: str = "none") -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f"<polyline points='{points}' fill='none' stroke='{colour}' stroke-width='{width}' stroke-dasharray='{dash}'/>"


def _dot(place: tuple[float, float], colour: str) -> str:
    return f"<circle cx='{place[0]:.1f}' cy='{place[1]:.1f}' r='2.6' fill='{colour}'/>"


def _text(place: tuple[float, float], text: str, colour: str, *, more: str = "") -> str:
    return f"<text x='{place[0]:.1f}' y='{place[1]:.1f}' fill='{colour}' {more}>{text}</text>"


def _count(size: float) -> str:
    power = round(math.log10(size))
    return f"10<tspan dy='-4' font-size='8'>{power}</tspan>" if power > 3 and size == 10**power else f"{size:,.0f}"


def _milliseconds(value: float) -> str:
    return _with_unit(value, ("ms", "s"))


def _megabytes(value: float) -> str:
    return _with_unit(value, ("MB", "GB"))


def _with_unit(value: float, units: tuple[str, str]) -> str:
    if value >= 999.5:
        value, units = value / 1000, units[1:] * 2
    return f"{value:.2g} {units[0]}" if value < 99.5 else f"{value:.0f} {units[0]}"
