"""How runs and models show themselves in a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from vaekit.errors import VaekitError
from vaekit.pictures.comparison import table
from vaekit.pictures.curves import learning_curves
from vaekit.pictures.embed import image_tag
from vaekit.pictures.grid import grid
from vaekit.streams import Streams
from vaekit.vae import VAE

if TYPE_CHECKING:
    from vaekit.run import Run

NUM_SAMPLES, COLUMNS = 16, 8


def vae_html(vae: VAE) -> str:
    """Return the parts of a model as a table, and samples of it as they are now."""
    rows = "".join(
        f"<tr><th>{name}</th><td>{escape(type(part).__name__)}</td><td>{sum(p.numel() for p in part.parameters()):,}</td></tr>"
        for name, part in vae.named_children()
    )
    table = f"<table><tr><th></th><th>part</th><th>parameters</th></tr>{rows}</table>"
    shape = "×".join(map(str, vae.image_shape))
    return f"<div><p><b>VAE</b>: images {shape}, {vae.latent_dim} latents</p>{table}{_samples(vae)}</div>"


def run_html(run: Run) -> str:
    """Return a run's data, epochs and test numbers, its curves, and samples of its best model, as far as there are any."""
    records = run.metrics()
    charts = learning_curves(records)
    wanted = [chart for chart in charts if "<strong>ELBO" in chart or "<strong>KL</strong>" in chart] or charts[:1]
    curves = f'<div style="display:flex;flex-wrap:wrap;gap:1em">{"".join(wanted)}</div>'
    try:
        samples = _samples(run.vae())
    except VaekitError:
        samples = "<p>no model is saved yet</p>"
    facts = [f"{run.spec.data.dataset.kind}, {records[-1]['epoch'] if records else 0} of {run.spec.train.epochs} epochs"]
    if evaluation := run.evaluation():
        titles, (cells,) = table({run.path.name: evaluation})
        facts += [f"{title.replace('_', ' ')} {cell}" for title, cell in zip(titles[1:], cells[1:], strict=True)]
    about = f"<b>Run</b> {escape(str(run.path))}<br>{escape('; '.join(facts))}"
    return f"<div><p>{about}</p>{curves}{samples}</div>"


def _samples(vae: VAE) -> str:
    training = vae.training
    images = vae.eval().sample(NUM_SAMPLES, generator=Streams(0).generator("sample", 0, vae.device))
    vae.train(training)
    fitted = 'style="max-width:100%;height:auto"'
    return image_tag(grid(images, columns=COLUMNS), f"{NUM_SAMPLES} samples from the prior", fitted)
