"""Side-by-side comparison of models, with the same inputs and noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vaekit.drawing.examples import Examples
from vaekit.drawing.grid import labelled
from vaekit.drawing.picture import write_picture
from vaekit.drawing.subject import Subject
from vaekit.errors import UsageError
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
    """Return runs by their names, or by their paths if several have the same name."""
    short = [run.name for run in runs]
    return {name if short.count(name) == 1 else str(run.path): run for name, run in zip(short, runs, strict=True)}
