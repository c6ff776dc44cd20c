"""Scatter plots of codes, coloured by label."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vaekit.drawing.axes import PALETTE, Axes
from vaekit.drawing.latents import Plane
from vaekit.drawing.text import TEXT, text_width
from vaekit.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

PROJECTIONS = {"tsne": ("sklearn.manifold", "TSNE", "scikit-learn"), "umap": ("umap", "UMAP", "umap-learn")}
"""Methods whose axes have no meaning: module, class, and package to install."""
TALL = 22
"""Line height of the legend in pixels."""
NAME, FAR = TEXT + 4, 80
"""Height of a group's name among its points, and the maximum shift to avoid overlaps, in pixels."""


def project(codes: Tensor, method: str, seed: int) -> Tensor:
    """Project codes ``(N, D)`` onto the plane so that neighbours stay neighbours, using an optional library.

    Raises:
        UsageError: The library is not installed, or there are too few codes.
    """
    module, name, package = PROJECTIONS[method]
    try:
        projection = getattr(importlib.import_module(module), name)
    except ImportError:
        raise UsageError(
            f"{method} needs {package}, which is not installed", remedy=f"pip install {package}, or use --method pca"
        ) from None
    if len(codes) < 8:
        raise UsageError(f"too few images for {method}", given=f"{len(codes)} images", expected="8 or more")
    options = {"perplexity": min(30.0, (len(codes) - 1) / 3)} if method == "tsne" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from the library itself: threads, deprecations
        placed = projection(n_components=2, random_state=seed % 2**32, **options).fit_transform(codes.double().cpu().numpy())
    return torch.as_tensor(placed, dtype=torch.float32)


def scatter_picture(
    points: Tensor,
    labels: Tensor | None,
    names: Sequence[str] | None,
    *,
    plane: Plane | None,
    title: str,
    draws: Tensor | None = None,
) -> Image.Image:
    """Draw points in the plane, with a legend and each group's name at its centre.

    Args:
        points: ``(N, 2)``; a single column is drawn as a line of points per label.
        labels: ``(N,)``, or None.
        names: Names of the labels; default: their numbers.
        plane: The plane of the coordinates, or None if the axes have no meaning.
        title: The title.
        draws: Posterior samples ``(K, M, 2)`` of the first M points in the same plane, shown as ellipses of two standard
            deviations.
    """
    group_of = torch.zeros(len(points), dtype=torch.int64) if labels is None else labels.cpu()
    groups = group_of.unique().tolist()
    called = {g: names[g] if names is not None else str(g) for g in groups} if labels is not None else {}
    points = points.cpu()
    if points.shape[1] == 1:
        return _lines(points[:, 0], group_of, list(called.values()), plane, title)
    outlines = [_ellipse(draws[:, i].cpu()) for i in range(draws.shape[1])] if draws is not None else []
    ranges = [_range(values) for values in torch.cat([points, *outlines]).unbind(1)]
    if plane is not None and len(plane.names) == 2:  # equal scales, so that circles are circles
        half = max(high - low for low, high in ranges) / 2
        ranges = [((low + high) / 2 - half, (low + high) / 2 + half) for low, high in ranges]
    axes_names = plane.names if plane is not None else ("first (no unit)", "second (no unit)")
    legend = 40 + max(map(text_width, called.values())) if called else 0
    axes = Axes(ranges[0], ranges[1], (axes_names[0], axes_names[1]), title, legend=legend)
    _marks(axes, points, group_of)
    for outline, group in zip(outlines, group_of.tolist(), strict=False):  # of the first points only
        axes.line([axes.at(x, y) for x, y in outline.tolist()], PALETTE[groups.index(group) % len(PALETTE)], 0.8)
    for row, name in enumerate(called.values()):
        at = (axes.left + axes.side + 18, axes.top + 10 + row * TALL)
        axes.mark(at, row, radius=5)
        axes.text((at[0] + 12, at[1]), name)
    middles = [axes.at(*points[group_of == group].median(0).values.tolist()) for group in called]
    sizes = [(text_width(name, NAME) + NAME / 4, 1.25 * NAME) for name in called.values()]
    for name, middle in zip(called.values(), separate_boxes(middles, sizes), strict=True):
        axes.text(middle, name, "mm", NAME)
    return axes.finish()


def separate_boxes(middles: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Place boxes without overlap, each at its centre or at the nearest free position within `FAR`; return the centres.

    Args:
        middles: The preferred centres in pixels.
        sizes: Width and height of each box in pixels.
    """
    steps = range(-FAR, FAR + 1, 4)
    shifts = sorted(product(steps, steps), key=lambda shift: shift[0] ** 2 + shift[1] ** 2)
    placed: list[tuple[float, float]] = []
    for (x, y), (width, height) in zip(middles, sizes, strict=True):
        others = [(a, b, (width + w) / 2, (height + h) / 2) for (a, b), (w, h) in zip(placed, sizes, strict=False)]
        near = ((x + right, y + down) for right, down in shifts)
        free = (at for at in near if all(abs(at[0] - a) >= w or abs(at[1] - b) >= h for a, b, w, h in others))
        placed.append(next(free, (x, y)))
    return placed


def _lines(values: Tensor, group_of: Tensor, names: Sequence[str], plane: Plane | None, title: str) -> Image.Image:
    """Draw values ``(N,)`` along a line per group, the first at the top."""
    _, row = group_of.unique(return_inverse=True)
    last = float(row.max())
    axis = plane.names[0] if plane is not None else "first (no unit)"
    axes = Axes(_range(values), (last + 0.5, -0.5), (axis, "label" if names else ""), title, rows=names)
    _marks(axes, torch.stack([values, row.to(values)], 1), row)
    return axes.finish()


def _marks(axes: Axes, points: Tensor, group_of: Tensor) -> None:
    """Draw points ``(N, 2)`` with the markers of their groups."""
    _, group = group_of.unique(return_inverse=True)
    for (x, y), g in zip(points.tolist(), group.tolist(), strict=True):
        axes.mark(axes.at(x, y), g, radius=2.6 if len(points) > 300 else 4)


def _range(values: Tensor) -> tuple[float, float]:
    low, high = values.min().item(), values.max().item()
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin


def _ellipse(draws: Tensor, sigmas: float = 2.0, corners: int = 40) -> Tensor:
    """Return the ellipse of ``sigmas`` standard deviations of points ``(K, 2)``, as ``(corners + 1, 2)``."""
    center = draws.mean(0)
    covariance = (draws - center).T @ (draws - center) / (len(draws) - 1)
    values, vectors = torch.linalg.eigh(covariance)
    t = torch.linspace(0, 2 * torch.pi, corners + 1)
    circle = torch.stack([t.cos(), t.sin()], 1)
    outline: Tensor = center + sigmas * circle * values.clamp(min=0).sqrt() @ vectors.T
    return outline
