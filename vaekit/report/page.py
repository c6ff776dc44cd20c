"""The report of a run: a self-contained page of several sections."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import torch

from vaekit._version import __version__
from vaekit.drawing.animation import evenly
from vaekit.drawing.picture import Picture
from vaekit.drawing.subject import Subject
from vaekit.errors import VaekitError, reason_of
from vaekit.evaluation.metrics import metrics_in
from vaekit.files import write_text
from vaekit.interfaces import without_density
from vaekit.model.vae import VAE
from vaekit.report.curves import learning_curves
from vaekit.report.inline_images import animation_tag, figure, image_tag, slideshow
from vaekit.roles import losses, pictures
from vaekit.specs.text import duration
from vaekit.store.record import Record
from vaekit.training.snapshots import read_frames

MOST_EPOCHS = 8
"""The largest number of epochs whose pictures are shown."""
Section = tuple[str, str, str]
"""Anchor, heading, content."""


def write_report(run: Record, out: str | Path | None = None) -> Path:
    """Write the report of a run and return its path.

    The report shows every picture that has a section. A picture that cannot be drawn, for example because the dataset is missing,
    is omitted, and the reason is given.

    Args:
        run: The run.
        out: The file; default: ``report.html`` in the run folder.

    Raises:
        CheckpointError: The run has no checkpoint.
        UsageError: The file cannot be written.
    """
    path = Path(out) if out is not None else run.path / "report.html"
    subject = Subject(run)
    spec = run.spec
    subtitle = (
        f"{spec.data.dataset.kind}, encoder {spec.model.encoder.kind}, decoder {spec.model.decoder.kind}, "
        f"{spec.model.latent_dim} latents; objective: {objective_of(run)}"
        + (f"; tags: {', '.join(run.tags)}" if run.tags else "")
    )
    title, footer = f"{run.name}: a vaekit run", "All losses are in nats per image."
    write_text(path, html_page(title, subtitle, [*_sections(run, subject)], footer))
    return path


def html_page(title: str, subtitle: str, sections: Sequence[Section], footer: str) -> str:
    """Return a self-contained page of several sections, with a table of contents."""
    return Template(Path(__file__).with_name("page.html").read_text("utf-8")).substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        contents="".join(f'<li><a href="#{anchor}">{escape(heading)}</a></li>' for anchor, heading, _ in sections),
        sections="\n".join(
            f'<section id="{anchor}" aria-labelledby="{anchor}-h"><h2 id="{anchor}-h">{escape(heading)}</h2>{content}</section>'
            for anchor, heading, content in sections
        ),
        footer=escape(f"Written by vaekit {__version__}. {footer}".strip()),
    )


def objective_of(run: Record) -> str:
    """Return the terms of the objective as a sum: ``reconstruction + kl``."""
    terms = run.spec.model.loss
    covered = any("reconstruction" in losses.get(loss.kind).declare(dict(loss)).covers for loss in terms)
    return " + ".join([*([] if covered else ["reconstruction"]), *(loss.kind for loss in terms)])


def _sections(run: Record, subject: Subject) -> Iterator[Section]:
    evaluation, records = run.evaluation() or {}, run.metrics()
    yield "summary", "Summary", _summary(run, subject.vae, evaluation, records[-1] if records else None)
    if records:
        curves = learning_curves(records, str(evaluation.get("elbo_is", "bound")))
        charts = f'<div class="charts">{"".join(curves.values())}</div>'
        averaged = "Training metrics use the raw weights, validation metrics their moving average."
        note = f'<p class="note">{averaged}</p>' if run.spec.train.ema is not None else ""
        yield "curves", "Learning curves", charts + note
    drawn = _drawn(subject)
    yield "pictures", "Pictures", f'<div class="pictures">{"".join([*drawn["pictures"], *_epochs(run)])}</div>'
    yield "latents", "Latents", f'<div class="pictures">{"".join(drawn["latents"])}</div>'
    if evaluation:
        yield "evaluation", "Evaluation", _evaluation(evaluation)
    yield "spec", "Spec", _pre(run.folder.spec.read_text("utf-8"), "The resolved spec")
    yield "environment", "Environment", _environment(run)


def _summary(run: Record, vae: VAE, evaluation: Mapping[str, Any], last: Mapping[str, Any] | None) -> str:
    facts: dict[str, object] = {}
    if evaluation:
        for metric in metrics_in(evaluation):
            if metric.key in {"elbo", "kl", "reconstruction"}:
                facts[f"{metric.label}, {evaluation['split']}"] = metric.text(evaluation[metric.key], digits=2)
        facts["active units"] = f"{evaluation['active_units']} of {vae.latent_dim}"
        facts["best epoch"] = evaluation["epoch"]
    if last is not None:
        facts["epochs"] = f"{last['epoch']} of {run.spec.train.epochs}"
        facts["training"] = duration(last["seconds"]) + (" h" if last["seconds"] >= 3600 else " min")
        facts["images/s"] = f"{last['step'] * run.spec.train.batch_size / max(last['seconds'], 1e-3):,.0f}"
    facts["parameters"] = f"{sum(p.numel() for p in vae.parameters()):,}"
    facts["shape"] = "×".join(map(str, vae.data_shape))
    elbo = evaluation["elbo_is"] if "elbo" in evaluation else without_density(vae.posterior, vae.prior)
    note = f'<p class="note">ELBO: {escape(elbo)}.</p>' if elbo else ""
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in facts.items())
    return f'<dl class="facts">{cells}</dl>{note}'


def _drawn(subject: Subject) -> dict[str, list[str]]:
    """Draw the pictures of each section; those that cannot be drawn are listed there with the reason."""
    drawn: dict[str, list[str]] = {"pictures": [], "latents": []}
    missing: dict[tuple[str, str], list[str]] = {}
    unread = ""
    try:
        _ = subject.run.splits
    except (VaekitError, OSError) as error:
        unread = str(error)
    for kind in pictures.kinds():
        section, title = "pictures", kind
        try:
            cls: type[Picture] = pictures.get(kind)
            if cls.section is None:
                continue
            section, title = cls.section, cls.title or kind
            picture: Picture = pictures.build(pictures.spec(kind)(kind=kind), subject=subject)
            tag = image_tag(picture.still(), picture.alt() or title)
        except Exception as error:  # a plugin's picture may raise anything, and the page does not depend on it
            missing.setdefault((section, _reason(error, unread)), []).append(title)
        else:
            drawn[section].append(figure(title, tag if section == "pictures" else _wide(title, tag)))
    for (section, reason), titles in missing.items():
        drawn[section].append(f"<p>{escape(', '.join(titles))}: not shown, since {escape(reason)}</p>")
    return drawn


def _reason(error: Exception, unread: str) -> str:
    """Return, in one line, why a picture could not be drawn; ``unread`` is the error of reading the dataset, if any."""
    if not isinstance(error, VaekitError | OSError):
        return f"it failed with {reason_of(error)}"
    message = str(error).partition("\n")[0]
    return f"the dataset could not be read: {message}" if str(error) == unread else message


def _wide(title: str, tag: str) -> str:
    """Return a picture that scrolls sideways if the window is too narrow for its text to be legible."""
    return f'<div class="wide scroll" tabindex="0" role="region" aria-label="{escape(title)}">{tag}</div>'


def _epochs(run: Record) -> Iterator[str]:
    """Show the pictures taken during training."""
    for folder, title, alt in (
        (run.folder.reconstructions, "Reconstructions, by epoch", "images in rows, each with its reconstruction below"),
        (run.folder.samples, "Samples, by epoch", "images decoded from the same samples of the prior"),
    ):
        files = evenly(sorted(folder.glob("epoch-*.png")), MOST_EPOCHS)
        steps = [(f"epoch {int(file.stem.removeprefix('epoch-'))}", frame) for file in files for frame in read_frames(file)]
        if steps:
            yield slideshow(title, steps, alt)
    animations = sorted(run.path.glob("training.*"))
    if animations and (frames := read_frames(animations[0])):
        tag = animation_tag(frames, "Animation: the same samples of the prior, decoded after each epoch of training")
        yield f"<details><summary>Animation of training</summary>{figure('From the first epoch to the last', tag)}</details>"


def _evaluation(evaluation: Mapping[str, Any]) -> str:
    rows = [(metric.label, metric.text(evaluation[metric.key]), metric.unit, metric.meaning) for metric in metrics_in(evaluation)]
    about = f"<p>{evaluation['num_images']:,} {escape(evaluation['split'])} images, weights of epoch {evaluation['epoch']}.</p>"
    return about + html_table(("number", "value", "unit", "meaning"), rows, numbers=1)


def _environment(run: Record) -> str:
    versions = {name: value for name, value in run.header.versions.items() if isinstance(value, str)}
    rows = [(f"{name}, in training", value) for name, value in versions.items()]
    now = {"vaekit": __version__, "torch": torch.__version__, "python": platform.python_version(), "system": platform.platform()}
    rows += [(f"{name}, for this report", value) for name, value in now.items()]
    return html_table(("what", "version"), rows)


def html_table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int | None = None) -> str:
    """Return a table in which the column ``numbers`` is right-aligned."""
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
