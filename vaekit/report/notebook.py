"""The HTML representation of a run in notebooks."""

from __future__ import annotations

from html import escape

from vaekit.drawing.grid import grid
from vaekit.errors import VaekitError
from vaekit.evaluation.tables import evaluation_table
from vaekit.model.vae import VAE
from vaekit.report.curves import learning_curves
from vaekit.report.inline_images import image_tag
from vaekit.store.record import Record
from vaekit.streams import Streams

NUM_SAMPLES, COLUMNS = 16, 8


def run_html(run: Record) -> str:
    """Return the data, epochs and test metrics of a run, its learning curves and samples of its best model, where available."""
    records = run.metrics()
    evaluation = run.evaluation() or {}
    charts = learning_curves(records, str(evaluation.get("elbo_is", "bound")))
    wanted = [chart for key, chart in charts.items() if key in {"elbo", "kl"}] or list(charts.values())[:1]
    curves = f'<div style="display:flex;flex-wrap:wrap;gap:1em">{"".join(wanted)}</div>'
    try:
        samples = _samples(run.vae())
    except VaekitError:
        samples = "<p>no model is saved yet</p>"
    facts = [f"{run.spec.data.dataset.kind}, {records[-1]['epoch'] if records else 0} of {run.spec.train.epochs} epochs"]
    if evaluation:
        titles, (cells,) = evaluation_table({run.path.name: evaluation})
        facts += [f"{title} {cell}" for title, cell in zip(titles[1:], cells[1:], strict=True)]
    about = f"<b>Run</b> {escape(str(run.path))}<br>{escape('; '.join(facts))}"
    return f"<div><p>{about}</p>{curves}{samples}</div>"


def _samples(vae: VAE) -> str:
    images = vae.sample(NUM_SAMPLES, generator=Streams(0).generator("sample", 0, vae.device))
    fitted = 'style="max-width:100%;height:auto"'
    return image_tag(grid(vae.to_unit(images), columns=COLUMNS), f"{NUM_SAMPLES} samples from the prior", fitted)
