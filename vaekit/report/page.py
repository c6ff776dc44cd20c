"""The sections of a report, and the page that holds them."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import torch
from PIL import Image

from vaekit import __version__
from vaekit.assembly import build_objective
from vaekit.console import duration, term_names
from vaekit.errors import UsageError, VaekitError
from vaekit.files import write_text
from vaekit.pictures.album import Album
from vaekit.pictures.curves import learning_curves
from vaekit.pictures.embed import animation_tag, figure, image_tag, slideshow
from vaekit.pictures.grid import grid
from vaekit.run import Run
from vaekit.streams import Streams
from vaekit.training import checkpoint

MOST_EPOCHS = 8
"""Epochs whose pictures are shown."""
MEANINGS = {
    "bits_per_dim": "estimate of an upper bound, for 8-bit pixels",
    "active_units": "latents that carry information",
    "log_likelihood": "importance-sampled log p(x), nats",
    "standard_error": "of log p(x), over images",
    "effective_samples": "of the importance samples",
    "loss": "the objective, nats",
}
Section = tuple[str, str, str]
"""Anchor, heading, content."""


def write_report(run: Run, out: str | Path | None = None) -> Path:
    """Write the report of a run, ``report.html`` in its folder unless ``out`` is given; return its path.

    What the data set is needed for (traversals around a test image, the scatter plot) is left out, with the reason, where it
    cannot be read.

    Raises:
        CheckpointError: The run has no checkpoint.
        UsageError: The file cannot be written.
    """
    path = Path(out) if out is not None else run.path / "report.html"
    sections = [*_sections(run)]
    template = Template(Path(__file__).with_name("page.html").read_text("utf-8"))
    spec = run.spec
    page = template.substitute(
        title=escape(f"{run.path.resolve().name}: a vaekit run"),
        subtitle=escape(
            f"{spec.data.dataset.kind}, encoder {spec.model.encoder.kind}, decoder {kind_of_decoder(run)}, "
            f"{spec.model.latent_dim} latents; objective: {objective_of(run)}"
        ),
        contents="".join(f'<li><a href="#{anchor}">{escape(heading)}</a></li>' for anchor, heading, _ in sections),
        sections="\n".join(
            f'<section id="{anchor}" aria-labelledby="{anchor}-h"><h2 id="{anchor}-h">{escape(heading)}</h2>{content}</section>'
            for anchor, heading, content in sections
        ),
        footer=escape(f"Written by vaekit {__version__}. All losses are in nats per image."),
    )
    try:
        write_text(path, page)
    except OSError as error:
        raise UsageError(f"cannot write {path}", given=error.strerror) from None
    return path


def kind_of_decoder(run: Run) -> str:
    """Return the name of the decoder."""
    return run.spec.model.decoder.kind if run.spec.model.decoder is not None else "of no name"


def objective_of(run: Run) -> str:
    """Return the terms of the objective as a sum: ``reconstruction + kl``."""
    losses = build_objective(run.spec.model, run.pictures.of.vae).get_submodule("players.0.losses")
    return " + ".join(name for name, _ in losses.named_children())


def images_per_second(run: Run) -> float:
    """Return the images that training has seen a second, over all of its epochs; of the last one's record."""
    record = run.metrics()[-1]
    speed: float = record["step"] * run.spec.train.batch_size / max(record["seconds"], 1e-3)
    return speed


def _sections(run: Run) -> Iterator[Section]:
    album = run.pictures
    evaluation = run.evaluation() or {}
    yield "summary", "Summary", _summary(run, evaluation)
    if records := run.metrics():
        elbo = next(iter(reversed(term_names(evaluation, "", evaluation.get("elbo_is", "bound")))), "ELBO")
        charts = f'<div class="charts">{"".join(learning_curves(records, elbo))}</div>'
        averaged = "Training's numbers are of the weights in training, validation's of their moving average."
        note = f'<p class="note">{averaged}</p>' if run.spec.train.ema is not None else ""
        yield "curves", "Learning curves", charts + note
    yield "pictures", "Pictures", f'<div class="pictures">{"".join(_pictures(run, album))}</div>'
    yield "latents", "Latents", f'<div class="pictures">{"".join(_latents(album))}</div>'
    if evaluation:
        yield "evaluation", "Evaluation", _evaluation(evaluation)
    yield "spec", "Spec", _pre(run.folder.spec.read_text("utf-8"), "The resolved spec")
    yield "environment", "Environment", _environment(run)


def _summary(run: Run, evaluation: Mapping[str, Any]) -> str:
    vae, records = run.pictures.of.vae, run.metrics()
    facts: dict[str, object] = {}
    if evaluation:
        for name, key in reversed(term_names(evaluation, "", evaluation["elbo_is"]).items()):
            facts[f"{name}, {evaluation['split']}"] = f"{evaluation[key]:,.2f}"
        facts["active units"] = f"{evaluation['active_units']} of {vae.latent_dim}"
        facts["best epoch"] = evaluation["epoch"]
    if records:
        facts["epochs"] = f"{records[-1]['epoch']} of {run.spec.train.epochs}"
        facts["training"] = duration(records[-1]["seconds"]) + (" h" if records[-1]["seconds"] >= 3600 else " min")
        facts["images/s"] = f"{images_per_second(run):,.0f}"
    facts["parameters"] = f"{sum(p.numel() for p in vae.parameters()):,}"
    facts["image"] = "×".join(map(str, vae.image_shape))
    note = f'<p class="note">ELBO: {escape(evaluation["elbo_is"])}.</p>' if "elbo" in evaluation else ""
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in facts.items())
    return f'<dl class="facts">{cells}</dl>{note}'


def _pictures(run: Run, album: Album) -> Iterator[str]:
    draws = album.of.vae.sample(36, generator=Streams(0).generator("sample"))
    yield figure("Samples of the best weights", image_tag(grid(draws), "36 images decoded from draws of the prior, in a grid"))
    for folder, title, alt in (
        (run.folder.reconstructions, "Reconstructions, by epoch", "images in rows, each with its reconstruction below"),
        (run.folder.samples, "Samples, by epoch", "images decoded from the same prior draws"),
    ):
        if files := evenly(sorted(folder.glob("epoch-*.png")), MOST_EPOCHS):
            steps = [(f"epoch {int(file.stem.removeprefix('epoch-'))}", Image.open(file)) for file in files]
            yield slideshow(title, steps, alt)
    if animations := sorted(run.path.glob("training.*")):
        tag = animation_tag(animations[0], "Animation: the same prior draws decoded after each epoch of training")
        yield f"<details><summary>Animation of training</summary>{figure('From the first epoch to the last', tag)}</details>"


def _latents(album: Album) -> Iterator[str]:
    try:
        traversal = album.traversal(dims=None, num=10)
        scatter = album.scattered()
    except (VaekitError, OSError) as error:
        yield f"<p>Not shown, since the data set could not be read: {escape(str(error).partition(chr(10))[0])}</p>"
        return
    names = ", ".join(traversal.rows)
    yield _wide("Traversals", traversal.picture(), f"One row of images for each of the latents {names}")
    coloured = ", coloured by label" if album.of.run.splits.test.labels is not None else ""
    yield _wide("Codes of test images", scatter, f"Scatter plot of the codes of test images{coloured}")


def _wide(title: str, image: Image.Image, alt: str) -> str:
    """Return a figure whose picture scrolls sideways where the window is too narrow to read its text."""
    return figure(
        title, f'<div class="wide scroll" tabindex="0" role="region" aria-label="{title}">{image_tag(image, alt)}</div>'
    )


def _evaluation(evaluation: Mapping[str, Any]) -> str:
    named = {key: name for name, key in term_names(evaluation, "", evaluation["elbo_is"]).items()}
    meanings = MEANINGS | {
        "elbo": evaluation["elbo_is"],
        "reconstruction": "-log p(x|z), nats",
        "kl": "from prior to posterior, nats",
    }
    rows = [
        (
            named.get(key, key.replace("_", " ")),
            f"{value:,}" if isinstance(value, int) else f"{value:,.3f}",
            meanings.get(key, ""),
        )
        for key, value in evaluation.items()
        if isinstance(value, int | float)
    ]
    return f"<p>Split: {escape(evaluation['split'])}.</p>" + table(("number", "value", "what it is"), rows, numbers=1)


def _environment(run: Run) -> str:
    _, header = checkpoint.load(run.folder.model)
    versions = {name: value for name, value in header.versions.items() if isinstance(value, str)}
    rows = [(f"{name}, in training", value) for name, value in versions.items()]
    now = {"vaekit": __version__, "torch": torch.__version__, "python": platform.python_version(), "system": platform.platform()}
    rows += [(f"{name}, for this report", value) for name, value in now.items()]
    return table(("what", "version"), rows)


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int | None = None) -> str:
    """Return a table; the cells of the column ``numbers`` stand to the right."""
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    body = "".join("<tr>" + "".join(_cell(i, cell, numbers) for i, cell in enumerate(row)) + "</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(titles[0])}s"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(column: int, text: str, numbers: int | None) -> str:
    if column == 0:
        return f'<th scope="row">{escape(text)}</th>'
    return f"<td{' class=number' if column == numbers else ''}>{escape(text)}</td>"


def _pre(text: str, label: str) -> str:
    return f'<pre class="scroll" tabindex="0" role="region" aria-label="{label}"><code>{escape(text)}</code></pre>'


def evenly(items: Sequence[Path], most: int) -> list[Path]:
    """Return at most ``most`` items, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]
