"""``vaekit score``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from vaekit.cli.common import DataArgument, DeviceOption, FitOption, JsonOption, Panel, RunArgument, SplitOption, open_run

if TYPE_CHECKING:
    from vaekit.data.specs import Fit
    from vaekit.evaluation.scores import Scores

PANEL = Panel.TRAINING
NAMES = "elbo, reconstruction, kl, squared_error, log_likelihood, input_complexity or likelihood_ratio"


def score(  # noqa: PLR0917 - Typer calls it by keywords
    run: RunArgument = None,
    data: DataArgument = None,
    score: Annotated[str, typer.Option(metavar="NAME", help=f"The score: {NAMES}.")] = "elbo",
    split: SplitOption = None,
    samples: Annotated[
        int, typer.Option(min=0, max=1_000_000, metavar="K", help="Number of importance samples for log p(x); 0 skips it.")
    ] = 0,
    background: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Background model of a likelihood ratio, trained on images with random changes."),
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Do not sample: score the mean of q(z|x), as exported scorers do.")
    ] = False,
    quantile: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Threshold: this quantile of the scores of the validation split, such as 0.95.",
            show_default=False,
        ),
    ] = None,
    contamination: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Threshold: this share of the data is anomalous, such as 0.05.", show_default=False),
    ] = None,
    validation: Annotated[
        str | None, typer.Option(metavar="DATA", help="Normal examples for --quantile; default: the run's.", show_default=False)
    ] = None,
    anomalous: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL", help="A label of known anomalies; may be given more than once.", show_default=False),
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="DATA", help="A second dataset, of known anomalies.", show_default=False)
    ] = None,
    fit: FitOption = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The table: .parquet or .npz; default: RUN/scores.parquet.", show_default=False),
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write a picture of the errors in each example, named by row.", show_default=False),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write a page of the least and most likely examples.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Random seed.")] = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Score how anomalous each example is under a trained model, and write a table of the scores.

    Each row has the ELBO, -log p(x|z), the KL and the squared error of an example, its label and its place in the data, and its
    score, which is higher the more anomalous it is. A threshold is stored with the run; the table marks the examples above it.

    A model may find data of another kind more likely than its own: one of clothes prefers digits, which are simpler. Scores that
    correct for this are input_complexity, which subtracts the length of the image as a PNG; likelihood_ratio, relative to a model
    of images with random changes; and squared_error. Where anomalies are known, by --against or --anomalous, the AUROC of every
    score is shown.
    """
    from vaekit.data.table import write_table

    opened = open_run(run)
    path = out or opened.path / "scores.parquet"
    with write_table(path) as table:
        scores = opened.score(
            data,
            score=score,
            split=split,
            samples=samples,
            background=background,
            deterministic=deterministic,
            quantile=quantile,
            contamination=contamination,
            validation=validation,
            anomalous=anomalous or (),
            against=against,
            fit=cast("Fit | None", fit),
            seed=seed,
            device=device,
            maps=maps,
            page=page,
        )
        table.append(scores.columns)
    typer.echo(json.dumps(summary(scores)) if as_json else "\n".join(lines(scores)))
    for written in filter(None, (path, maps, page)):
        typer.echo(written, err=as_json)


def summary(scores: Scores) -> dict[str, Any]:
    """Return a summary of the table as plain data."""
    from dataclasses import asdict

    result: dict[str, Any] = {"score": scores.name, "num_images": len(scores), "mean": float(scores.score.mean())}
    result["elbo_is"] = scores.elbo_is
    if scores.threshold is not None:
        result |= {"threshold": asdict(scores.threshold), "num_above": int(scores["above_threshold"].sum())}
    return result | scores.quality


def lines(scores: Scores) -> Iterator[str]:
    """Yield a summary of the table as lines of text."""
    from vaekit.evaluation.scores import SCORES

    yield f"{scores.name} of {len(scores):,} examples: mean {scores.score.mean():,.3f} ({SCORES[scores.name].meaning})"
    threshold, quality = scores.threshold, scores.quality
    if threshold is not None:
        above = int(scores["above_threshold"].sum())
        yield f"threshold {threshold.value:,.3f}: the {threshold.quantile:.4g} quantile of {threshold.source}"
        yield f"above it {above:,} examples, {above / len(scores):.2%}"
        if quality:
            yield f"  precision {quality['precision']:.3f}, recall {quality['recall']:.3f}, F1 {quality['f1']:.3f}"
    for name, area in quality.get("auroc", {}).items():
        yield f"  {name:16}  AUROC {area:.4f}  average precision {quality['average_precision'][name]:.4f}"
