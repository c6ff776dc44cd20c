"""Presentation of throughput measurements: a table, a chart, and the comparison of two measurements."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaekit.errors import DataError, UsageError
from vaekit.specs.text import counted, flat, value_text

if TYPE_CHECKING:
    from rich.table import Table

KEY = ("task", "device", "precision", "compile", "batch")
"""The fields that identify a row of a measurement."""


def throughput_table(result: Mapping[str, Any]) -> Table:
    """Return the result of `throughput` as a table with a row per measurement."""
    shown = _table(
        *KEY,
        "images/s (quartiles)",
        "ms: data+forward+backward+optimiser",
        "of matrix peak",
        "of bandwidth",
        *(["GPU busy"] if (on_cuda := any("busy_fraction" in row for row in result["rows"])) else []),
        "first step",
    )
    for row in result["rows"]:
        parts = " + ".join(f"{value:.2f}" for value in row["parts"].values()) if "parts" in row else ""
        shown.add_row(
            *(str(row[name]) for name in KEY),
            f"{row['images_per_second']:,.0f} ({row['lower']:,.0f}-{row['upper']:,.0f})",
            parts,
            f"{row['flops_fraction']:.0%}",
            f"{row['bytes_fraction']:.0%}" if "bytes_fraction" in row else "",
            *([f"{row['busy_fraction']:.0%}" if "busy_fraction" in row else ""] if on_cuda else []),
            f"{row['first_step_seconds']:.2f} s" if "first_step_seconds" in row else "",
        )
    return shown


def footnotes(result: Mapping[str, Any]) -> list[str]:
    """Return footnotes to the table: the peak performance of the machine, the environment and the version of the code."""
    about = result["environment"]
    peaks = [
        f"{key}: {peak['flops'] / 1e9:,.0f} GFLOP/s in matrix products, {peak['bytes'] / 1e9:,.1f} GB/s in copies"
        for key, peak in result["machine"].items()
    ]
    held = [row["peak_bytes"] for row in result["rows"] if row["peak_bytes"] is not None]
    memory = [f"peak memory {max(held) / 1e6:,.0f} MB"] if held else []
    place = ", ".join(filter(None, (about["processor"], about.get("gpu"), counted(about["threads"], "thread"), about["system"])))
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return [*peaks, *memory, place, f"{versions}, commit {(about['commit'] or 'unknown')[:12]}"]


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the ratio of throughputs for each row in both measurements, and whether the difference exceeds the quartiles.

    Raises:
        UsageError: The measurements have no row in common.
    """
    old = {_key(row): row for row in before["rows"]}
    rows = []
    for row in after["rows"]:
        if (other := old.get(_key(row))) is not None:
            apart = row["lower"] > other["upper"] or row["upper"] < other["lower"]
            speeds = {"before": other["images_per_second"], "after": row["images_per_second"]}
            ratio = row["images_per_second"] / other["images_per_second"]
            rows.append({**{name: row[name] for name in KEY}, **speeds, "ratio": ratio, "beyond_quartiles": apart})
    if not rows:
        raise UsageError("the two measurements have no row in common", expected=f"rows with the same {', '.join(KEY)}")
    return rows


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return a list of differences between two measurements in environment and spec."""
    notes = [
        f"{name}: {before['environment'].get(name)} before, {after['environment'].get(name)} after"
        for name in ("processor", "gpu", "threads", "system", "versions", "commit")
        if before["environment"].get(name) != after["environment"].get(name)
    ]
    old, new = ({name: value_text(value) for name, value in flat(result["spec"]).items()} for result in (before, after))
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return notes + [f"{name}: {old.get(name, 'absent')} before, {new.get(name, 'absent')} after" for name in changed]


def speedup_table(rows: list[dict[str, Any]]) -> Table:
    """Return the result of `compare` as a table."""
    shown = _table(*KEY, "before, images/s", "after", "ratio")
    for row in rows:
        mark = "" if row["beyond_quartiles"] else "  within the spread"
        shown.add_row(
            *(str(row[name]) for name in KEY), f"{row['before']:,.0f}", f"{row['after']:,.0f}", f"{row['ratio']:.2f}{mark}"
        )
    return shown


def read_result(path: Path) -> dict[str, Any]:
    """Read a file written by ``vaekit bench --json``.

    Raises:
        DataError: The file is missing or not a measurement.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is not a regular file")
        result = json.loads(path.read_text("utf-8"))
        if not {"rows", "environment", "machine", "spec"} <= result.keys():
            raise ValueError("it has no rows")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is not a measurement", given=error, expected="the output of `vaekit bench --json`") from None
    return dict(result)


def write_chart(result: Mapping[str, Any], path: Path) -> None:
    """Write a PNG bar chart of images per second with quartiles; each task has its own scale and colour."""
    from PIL import Image, ImageDraw

    from vaekit.drawing.axes import PALETTE
    from vaekit.drawing.text import INK, PAPER, text_width, write

    rows = result["rows"]
    labels = [" ".join(str(row[name]) for name in KEY) for row in rows]
    model = result["spec"]["model"]
    caption = [
        f"images per second by {', '.join(KEY)}, with quartiles; each task has its own scale",
        f"encoder {model['encoder']['kind']}, decoder {model['decoder']['kind']}; {footnotes(result)[-2]}",
    ]
    left, width, height = max(map(text_width, labels)) + 20, 420, 26
    whole = max(left + width + 100, *(text_width(line) + 20 for line in caption))
    picture = Image.new("RGB", (whole, height * (len(rows) + len(caption)) + 20), PAPER)
    draw = ImageDraw.Draw(picture)
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    for number, (row, label) in enumerate(zip(rows, labels, strict=True)):
        y, most = 10 + height * number, max(other["upper"] for other in rows if other["task"] == row["task"])
        low, median, high = (left + width * row[name] / most for name in ("lower", "images_per_second", "upper"))
        draw.rectangle((left, y + 4, median, y + height - 4), fill=PALETTE[tasks.index(row["task"])])
        draw.line((low, y + height // 2, high, y + height // 2), fill=INK, width=2)
        write(draw, (left - 8, y + height / 2), label, anchor="rm")
        write(draw, (left + width + 8, y + height / 2), f"{row['images_per_second']:,.0f}/s")
    for number, line in enumerate(caption, len(rows)):
        write(draw, (10, 14 + height * (number + 0.5)), line)
    picture.save(path, format="PNG")


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in KEY)


def _table(*columns: str) -> Table:
    from rich.table import Table

    shown = Table(box=None, header_style="bold")
    for name in columns:
        shown.add_column(name, justify="left" if name in KEY[:-1] else "right")
    return shown
