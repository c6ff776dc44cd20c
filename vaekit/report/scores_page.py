"""The page of the scores of a dataset: a histogram with the threshold, and the least and the most likely examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from vaekit.data.pixels import Array
from vaekit.drawing.axes import number, ticks
from vaekit.drawing.grid import side_by_side, single_images
from vaekit.evaluation.scores import SCORES, Scores, error_map
from vaekit.files import write_text
from vaekit.report.curves import BOTTOM, HEIGHT, LEFT, TOP, WIDTH, colour
from vaekit.report.inline_images import image_tag
from vaekit.report.page import html_page, html_table

if TYPE_CHECKING:
    from vaekit.model.vae import VAE
    from vaekit.store.record import Record

SHOWN = 24
"""The number of least likely, and of most likely, examples that a page shows."""
BINS = 60
TAIL = 0.002
"""The share of the lowest, and of the highest, scores that the histogram may collect in its outermost bars."""


class Example(NamedTuple):
    """An example to show.

    Args:
        score: Its score.
        caption: Its place in the data, and its label.
        image: ``(C, H, W)``, in the range of the data.
        reconstruction: Of the same shape.
    """

    score: float
    caption: str
    image: Tensor
    reconstruction: Tensor


@dataclass
class Extremes:
    """The examples with the lowest and the highest scores so far; among equal scores, the first.

    Args:
        num: The number of examples at each end.
    """

    num: int = SHOWN
    low: list[Example] = field(default_factory=list)
    high: list[Example] = field(default_factory=list)

    def add(self, scores: Array, example: Callable[[int], Example]) -> None:
        """Add a batch.

        Args:
            scores: Its scores, ``(B,)``.
            example: Returns the example at a position of the batch.
        """
        for kept, sign in ((self.low, 1), (self.high, -1)):
            kept.extend(map(example, np.argsort(sign * scores, kind="stable")[: self.num].tolist()))
            kept.sort(key=lambda each: sign * each.score)
            del kept[self.num :]


def write_page(path: Path, run: Record, vae: VAE, scores: Scores, *, extremes: Extremes, data: str) -> None:
    """Write the page.

    Args:
        path: The file.
        run: The run.
        vae: Its model.
        scores: The scores.
        extremes: The examples to show.
        data: A description of the data.
    """
    threshold, num = scores.threshold, len(scores)
    facts = {"examples": f"{num:,}", "score": scores.name, "median": f"{np.median(scores.score):,.2f}"}
    if threshold is not None:
        above = int(scores["above_threshold"].sum())
        facts |= {"threshold": f"{threshold.value:,.2f}", "above it": f"{above:,} ({above / num:.1%})"}
    if quality := scores.quality:
        facts["AUROC"] = f"{quality['auroc'][scores.name]:.3f}"
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    meaning = f"{scores.name}: {SCORES[scores.name].meaning}. A higher score is more anomalous. ELBO: {scores.elbo_is}."
    if threshold is not None:
        meaning += (
            f" The threshold is the {threshold.quantile:.4g} quantile of {threshold.num_images:,} scores of {threshold.source}."
        )
    sections = [
        ("summary", "Summary", f'<dl class="facts">{cells}</dl><p class="note">{escape(meaning)}</p>{histogram(scores)}'),
        ("least", "Least likely: the highest scores", _cards(extremes.high, vae)),
        ("most", "Most likely: the lowest scores", _cards(extremes.low, vae)),
    ]
    if quality:
        rows = [(name, f"{area:.4f}", f"{quality['average_precision'][name]:.4f}") for name, area in quality["auroc"].items()]
        sections.append(("quality", "Known anomalies", html_table(("score", "AUROC", "average precision"), rows, numbers=1)))
    write_text(path, html_page(f"Scores of {data}", f"under the model of {run.path.resolve().name}", sections, ""))


def _cards(examples: Sequence[Example], vae: VAE) -> str:
    cards = []
    for example in examples:
        x, reconstruction = example.image[None], example.reconstruction[None]
        shown = vae.to_unit(x), vae.to_unit(reconstruction), map_to_show(x, reconstruction, vae.value_range)
        picture = side_by_side([single.convert("RGB") for each in shown for single in single_images(each)])
        caption = f"{example.score:,.2f}: {example.caption}"
        cards.append(f"<figure>{image_tag(picture, caption)}<figcaption>{escape(caption)}</figcaption></figure>")
    note = "The example, its reconstruction from the mean of q(z|x), and the error, which is black where they agree."
    return f'<p class="note">{note}</p><div class="pictures cards">{"".join(cards)}</div>'


def map_to_show(x: Tensor, reconstruction: Tensor, limits: tuple[float, float]) -> Tensor:
    """Return maps of errors as examples of one channel in [0, 1]: the root mean square over channels, in parts of the range.

    Args:
        x: Examples ``(B, C, *sides)``, or rows of a table ``(B, F)``.
        reconstruction: Of the same shape.
        limits: The range of the data, which 0 and 1 stand for.
    """
    error = error_map(x, reconstruction)
    shown = (error / (1 if x.ndim == 2 else x.shape[1])).sqrt() / (limits[1] - limits[0])
    return shown if x.ndim == 2 else shown.unsqueeze(1)


def histogram(scores: Scores) -> str:
    """Draw the distribution of the score as an SVG element, with the threshold: of normal examples and of anomalies, if known.

    Each curve is the share of its examples per bar. Scores beyond the outermost bars are counted in these.
    """
    known = scores.columns.get("anomaly")
    groups = {"examples": scores.score} if known is None else {"normal": scores.score[~known], "anomalies": scores.score[known]}
    threshold = scores.threshold
    ends = np.quantile(scores.score, (TAIL, 1 - TAIL))
    low, high = min(ends[0], *([threshold.value] if threshold else [])), max(ends[1], *([threshold.value] if threshold else []))
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    shares = {
        name: np.histogram(values.clip(edges[0], edges[-1]), edges)[0] / max(1, len(values)) for name, values in groups.items()
    }
    tallest, floor, right = max(float(each.max()) for each in shares.values()), HEIGHT - BOTTOM, WIDTH - 12

    def x_of(value: float) -> float:
        return round(LEFT + (right - LEFT) * float((value - edges[0]) / (edges[-1] - edges[0])), 1)

    def y_of(share: float) -> float:
        return round(TOP + (floor - TOP) * (1 - share / tallest), 1)

    parts = [f'<line x1="{LEFT}" x2="{right}" y1="{floor}" y2="{floor}" stroke="currentColor" opacity=".4"/>']
    for value in ticks(0, tallest, 4):
        y = y_of(value)
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{y}" y2="{y}" stroke="currentColor" opacity=".15"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{100 * value:.3g} %", "end"))
    parts += [
        _text(x_of(value), floor + 16, number(round(value, 9)), "middle") for value in ticks(float(edges[0]), float(edges[-1]), 5)
    ]
    for i, each in enumerate(shares.values()):
        parts.append(_steps([x_of(edge) for edge in edges], [y_of(share) for share in each], floor, i))
    described = "; ".join(f"{name}: median {np.median(values):,.2f}" for name, values in groups.items() if len(values))
    if threshold is not None:
        x = x_of(threshold.value)
        parts.append(f'<line x1="{x}" x2="{x}" y1="{TOP}" y2="{floor}" stroke="currentColor" stroke-dasharray="5 3"/>')
        described += f"; the threshold is {threshold.value:,.2f}"
    unit = "" if scores.name == "squared_error" else ", nats"
    parts.append(_text((LEFT + right) / 2, HEIGHT - 3, f"{scores.name}{unit}", "middle"))
    keys = [f'<span style="color:{colour(i)}">■</span> {name}' for i, name in enumerate(groups) if len(groups) > 1]
    keys += ["┆ threshold"] if threshold is not None else []
    return (
        f'<figure class="chart"><figcaption><strong>Distribution of the score</strong> {" ".join(keys)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"Histogram of {scores.name}; {described}")}" '
        f'style="width:100%;max-width:44rem;height:auto" width="{WIDTH}" height="{HEIGHT}">{"".join(parts)}</svg></figure>'
    )


def _steps(x: Sequence[float], y: Sequence[float], floor: float, i: int) -> str:
    """Draw bars side by side as one filled outline."""
    points = [(x[0], floor), *((edge, height) for k, height in enumerate(y) for edge in (x[k], x[k + 1])), (x[-1], floor)]
    outline = " ".join(f"{a},{b}" for a, b in points)
    return f'<polygon points="{outline}" fill="{colour(i)}" fill-opacity=".25" stroke="{colour(i)}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="12" fill="currentColor">{escape(text)}</text>'
