"""Learning curves as SVG for pages and notebooks, without a plotting library and in the colours of the page."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import count
from typing import Any

import numpy as np

from vaekit.data.pixels import Array
from vaekit.drawing.axes import PALETTE, number, ticks
from vaekit.evaluation.metrics import METRICS

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 250, 62, 52, 12, 34
EARLY = 0.1
"""The fraction of first epochs that is ignored in choosing the range of an axis, since their values are far from the others."""
EPOCH, LINE, LEADER = 34, 13, 12
"""Distances in pixels: between epoch numbers, between labels at the ends of curves, and from the end of a curve to its label."""
_ids = count()


@dataclass(frozen=True)
class Curve:
    """A line.

    Args:
        name: Its name.
        points: Epoch and value of each point, ``(N, 2)``.
        colour: Its index in the palette.
        dashed: Whether it is dashed.
        faint: Whether it is one of many and drawn faintly.
        end: The label at its end.
    """

    name: str
    points: Array | Sequence[tuple[float, float]]
    colour: int = 0
    dashed: bool = False
    faint: bool = False
    end: str = ""


def chart(title: str, curves: Sequence[Curve], unit: str, *, from_zero: bool = False) -> str:
    """Draw curves over epochs as an SVG element with a legend and a description for screen readers.

    Args:
        title: The title.
        curves: The lines; at least one.
        unit: The unit of the values.
        from_zero: Whether the axis starts at 0; otherwise it spans the values, except those of the very first epochs.
    """
    lines = [np.asarray(curve.points, np.float64) for curve in curves]
    epochs, values = np.concatenate(lines).T
    first, last = epochs.min().item(), epochs.max().item()
    late = values[epochs > first + EARLY * (last - first)]
    if from_zero:
        late = np.append(values, 0.0)
    elif not late.size:
        late = values
    low, high = late.min().item(), late.max().item()
    margin = 0.05 * (high - low) or max(1e-3, 0.05 * abs(high))
    low, high = low - (0 if low == 0 else margin), high + margin

    def at(epoch: float, value: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * ((epoch - first) / (last - first) if last > first else 0.5)
        return round(x, 1), round(TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low), 1)

    number_of_this = next(_ids)
    clip = f"clip-{number_of_this}"
    floor = HEIGHT - BOTTOM
    parts = [f'<clipPath id="{clip}"><rect x="{LEFT - 4}" y="{TOP}" width="{WIDTH - LEFT}" height="{floor - TOP}"/></clipPath>']
    for value in ticks(low, high, 5):
        y = at(first, value)[1]
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="currentColor" opacity=".15"/>')
        parts.append(_text(LEFT - 6, y + 4, number(round(value, 9)), "end"))
    near = [x for x in ticks(first, last, 5) if min(at(x, low)[0] - LEFT, WIDTH - RIGHT - at(x, low)[0]) >= EPOCH]
    for epoch in sorted({first, *(x for x in near if x == round(x)), last}):
        parts.append(_text(at(epoch, low)[0], floor + 16, f"{epoch:.0f}", "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 3, "epoch", "middle"))
    drawn = [
        _line(curve, [at(*point) for point in _thinned(line, first, last)]) for curve, line in zip(curves, lines, strict=True)
    ]
    parts.append(f'<g clip-path="url(#{clip})">{"".join(drawn)}</g>')
    named = sorted((curve for curve in curves if curve.end), key=lambda curve: -curve.points[-1][1])
    ends = [at(*curve.points[-1]) for curve in named]
    for curve, (x, y), level in zip(named, ends, _spread([y for _, y in ends], floor), strict=True):
        right = WIDTH - RIGHT + LEADER
        leader = f'<polyline fill="none" stroke="{colour(curve.colour)}" points="{x},{y} {right},{level}"/>'
        parts.append(leader + _text(right + 3, level + 4, curve.end, "start"))
    described = "; ".join(
        f"{curve.name} from {number(curve.points[0][1])} to {number(curve.points[-1][1])}" for curve in curves if not curve.faint
    )
    outside = set(epochs[(values < low) | (values > high)].tolist())
    note = f'<p class="note" style="margin:0">Values of {_epochs(outside, first)} lie outside.</p>' if outside else ""
    legend = " ".join(_key(curve) for curve in curves if not (curve.faint or curve.end) and len(curves) > 1)
    described = escape(f"{title}, {unit}, over epochs: {described or f'{len(curves)} curves'}")
    return (
        f'<figure class="chart"><figcaption><strong>{escape(title)}</strong>, {escape(unit)} {legend}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{described}" style="max-width:100%;height:auto" '
        f'width="{WIDTH}" height="{HEIGHT}">{"".join(parts)}</svg>{note}</figure>'
    )


def colour(index: int) -> str:
    """Return a colour of the palette, which the page's style may override."""
    return f"var(--c{index}, {PALETTE[index]})"


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="12" fill="currentColor">{escape(text)}</text>'


def _thinned(points: Array, first: float, last: float) -> list[list[float]]:
    """Return the visible points of a line: the first, lowest, highest and last of those in a column of pixels."""
    columns = ((points[:, 0] - first) * ((WIDTH - LEFT - RIGHT) / max(last - first, 1e-9))).astype(int)
    kept: list[int] = []
    for part in np.split(np.arange(len(points)), np.flatnonzero(np.diff(columns)) + 1):
        values = points[part, 1]
        kept += sorted({part[0], part[values.argmin()], part[values.argmax()], part[-1]})
    thinned: list[list[float]] = points[kept].tolist()
    return thinned


def _line(curve: Curve, pixels: Sequence[tuple[float, float]]) -> str:
    look = f'stroke="{colour(curve.colour)}" stroke-width="{1 if curve.faint else 2}"'
    look += ' stroke-dasharray="5 4"' if curve.dashed else ""
    look += ' opacity=".6"' if curve.faint else ""
    if len(pixels) == 1:
        return f'<circle cx="{pixels[0][0]}" cy="{pixels[0][1]}" r="3" fill="{colour(curve.colour)}"/>'
    return f'<polyline fill="none" {look} points="{" ".join(f"{x},{y}" for x, y in pixels)}"/>'


def _key(curve: Curve) -> str:
    style = "dashed" if curve.dashed else "solid"
    return (
        f'<span class="key" style="white-space:nowrap"><span aria-hidden="true" style="display:inline-block;width:1.6em;'
        f'border-top:2px {style} {colour(curve.colour)};vertical-align:middle"></span> {escape(curve.name)}</span>'
    )


def _spread(heights: Sequence[float], floor: float) -> list[float]:
    """Return the heights of labels, from top to bottom, moved so that none overlap and the last stays above ``floor``."""
    levels: list[float] = []
    for y in heights:
        levels.append(max(y, levels[-1] + LINE) if levels else y)
    for i in reversed(range(len(levels))):
        levels[i] = min(levels[i], floor - (len(levels) - 1 - i) * LINE)
    return levels


def _epochs(epochs: Collection[float], first: float) -> str:
    """Describe epochs: ``epoch 1``, ``epochs 1 to 3``, or their number if they are not consecutive."""
    last = max(epochs)
    if len(epochs) == 1:
        return f"epoch {last:.0f}"
    if len(epochs) == last - min(epochs) + 1:
        return f"epochs {min(epochs):.0f} to {last:.0f}"
    return f"{len(epochs)} of the epochs {first:.0f} to {last:.0f}"


def learning_curves(records: Sequence[Mapping[str, Any]], elbo_is: str = "bound") -> dict[str, str]:
    """Draw the learning curve of each metric that has one, and the KL of each latent; return charts by key.

    Args:
        records: The records of ``metrics.jsonl``.
        elbo_is: The description of the ELBO in ``evaluation.json``.
    """
    charts: dict[str, str] = {}
    for metric in (metric.read_as(elbo_is) for metric in METRICS.values() if metric.curve):
        keys = [f"{split}_{metric.key}" for split in ("validation", "train")] if metric.per_split else [metric.key]
        curves = [
            Curve(key.partition("_")[0] if metric.per_split else metric.label, points, colour=i, dashed=i == 1)
            for i, key in enumerate(keys)
            if (points := _points(records, key))
        ]
        if curves:
            charts[metric.key] = chart(metric.label, curves, metric.unit, from_zero=metric.from_zero)
        if metric.key == "kl" and (latents := _latents(records)):
            charts["kl_per_latent"] = latents
    return charts


def _points(records: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(record["epoch"], record[key]) for record in records if key in record]


def _latents(records: Sequence[Mapping[str, Any]], named: int = 5) -> str:
    """Draw the KL of each latent; the ``named`` largest are labelled."""
    key = "validation_kl_per_latent"
    if not records or key not in records[-1]:
        return ""
    epochs, values = np.array([record["epoch"] for record in records]), np.array([record[key] for record in records])
    curves = [
        Curve(
            f"z{d}",
            np.stack([epochs, values[:, d]], 1),
            colour=rank % len(PALETTE) if rank < named else 9,
            faint=rank >= named,
            end=f"z{d}" if rank < named else "",
        )
        for rank, d in enumerate(np.argsort(-values[-1], kind="stable").tolist())
    ]
    return chart("KL of each latent", curves[::-1], "nats")
