"""Tables that compare the evaluations of several runs. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vaekit.evaluation.metrics import Metric, comparable_metrics


def evaluation_table(evaluations: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return the titles and rows of a table of all metrics of the models, with a dash for missing ones."""
    metrics = comparable_metrics(evaluations)
    rows = [
        [
            run,
            *(number_text(metric, numbers) for metric in metrics),
            *(str(numbers.get(key, "-")) for key in CONTEXT),
        ]
        for run, numbers in evaluations.items()
    ]
    return ["run", *(metric.label for metric in metrics), *CONTEXT.values()], rows


CONTEXT = {"split": "split", "binarize": "binarised", "elbo_is": "elbo is"}
"""The context besides the images that models must share for comparable metrics, with table titles."""


def number_text(metric: Metric, numbers: Mapping[str, Any]) -> str:
    """Format a metric of an evaluation, the ELBO with its standard error."""
    text = metric.text(numbers.get(metric.key))
    error = numbers.get("elbo_standard_error")
    return text if metric.key != "elbo" or error is None else f"{text} ± {metric.text(error)}"


def not_comparable(evaluations: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return why the metrics of several models cannot be ranked, by naming what differs between them; None if they can."""
    found = [numbers for numbers in evaluations.values() if numbers]
    titles = {**CONTEXT, "data": "images"}
    differing = [title for key, title in titles.items() if len({str(numbers.get(key)) for numbers in found}) > 1]
    if len({str(numbers["features"]) for numbers in found if "features" in numbers}) > 1:
        differing.append("feature network, or its protocol")
    if not differing:
        return None
    return f"these metrics cannot be ranked, because the models differ in: {', '.join(differing)}"


def aligned(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Format a table as lines of text."""
    widths = [max(len(row[i]) for row in [titles, *rows]) for i in range(len(titles))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [titles, *rows]]
