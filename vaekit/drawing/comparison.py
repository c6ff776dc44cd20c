"""Side-by-side comparison of models, with the same inputs and noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vaekit.drawing.examples import Examples
from vaekit.drawing.grid import labelled
from vaekit.drawing.picture import write_picture
from vaekit.drawing.subject import Subject
from vaekit.errors import UsageError
from vaekit.evaluation.metrics import Metric, comparable_metrics
from vaekit.model.vae import VAE
from vaekit.streams import Streams

if TYPE_CHECKING:
    from PIL import Image

    from vaekit.store.record import Record


@torch.no_grad()
def compare(vaes: Mapping[str, VAE], originals: Examples, seed: int) -> Image.Image:
    """Show originals, their reconstructions by each model, and each model's samples from the same noise.

    A model with D latents uses the first D columns of the noise.
    """
    columns = len(originals.images)
    rows, labels = [next(iter(vaes.values())).to_unit(originals.images)], ["original"]
    for name, vae in vaes.items():
        rows.append(vae.to_unit(vae.reconstruct(originals.images, originals.labels)))
        labels.append(name)
    for name, vae in vaes.items():
        rows.append(vae.to_unit(vae.sample(columns, generator=Streams(seed).generator("compare", 0, vae.device))))
        labels.append(f"{name}, sample")
    return labelled(torch.cat(rows), columns=columns, rows=labels)


def compare_runs(runs: Sequence[Record], *, num: int, seed: int, out: Path) -> None:
    """Write the comparison of runs on test images of the first run's data.

    Raises:
        UsageError: Their data differ in shape or range, or there are fewer than two runs.
    """
    if len(names_of(runs)) < 2:
        raise UsageError("nothing to compare", given=f"{runs[0].path} alone", expected="two or more different run folders")
    first, vaes = Subject(runs[0]), {name: run.vae() for name, run in names_of(runs).items()}
    images = {name: (vae.data_shape, vae.value_range) for name, vae in vaes.items()}
    if len(set(images.values())) > 1:
        raise UsageError(
            "models of data with different shapes or ranges cannot be compared",
            given=", ".join(f"{name} {shape} in [{low:g}, {high:g}]" for name, (shape, (low, high)) in images.items()),
            expected="one shape and one range",
        )
    write_picture(compare(vaes, first.test(range(first.num_test(num))), seed), out)


def names_of(runs: Sequence[Record]) -> dict[str, Record]:
    """Name runs by their folders, or by their paths if folder names are not unique."""
    short = [run.path.resolve().name for run in runs]
    return {name if short.count(name) == 1 else str(run.path): run for name, run in zip(short, runs, strict=True)}


def evaluation_table(evaluations: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return the column titles and rows of a table of all metrics of the models, with a dash for missing ones."""
    metrics = comparable_metrics(evaluations)
    rows = [
        [
            run,
            *(_cell(metric, numbers) for metric in metrics),
            *(str(numbers.get(key, "-")) for key in CONTEXT),
        ]
        for run, numbers in evaluations.items()
    ]
    return ["run", *(metric.label for metric in metrics), *CONTEXT.values()], rows


CONTEXT = {"split": "split", "binarize": "binarised", "elbo_is": "elbo is"}
"""The context, besides the images, that models must share for comparable metrics, with table titles."""


def _cell(metric: Metric, numbers: Mapping[str, Any]) -> str:
    text = metric.text(numbers.get(metric.key))
    error = numbers.get("elbo_standard_error")
    return text if metric.key != "elbo" or error is None else f"{text} ± {metric.text(error)}"


def not_comparable(evaluations: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return why the metrics of several models cannot be ranked, that is, what differs between them; None if they can."""
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
