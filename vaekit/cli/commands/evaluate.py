"""``vaekit evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vaekit.cli.common import DeviceOption, JsonOption, Panel, RunArgument, feature_request, open_run

PANEL = Panel.TRAINING


def evaluate(  # noqa: PLR0917 - Typer calls it by keywords
    run: RunArgument = None,
    samples: Annotated[
        int, typer.Option(min=0, max=1_000_000, metavar="K", help="Number of importance samples for log p(x); 0 skips it.")
    ] = 0,
    split: Annotated[str, typer.Option(metavar="train|validation|test", help="Which split.")] = "test",
    features: Annotated[
        str | None,
        typer.Option(
            metavar="NETWORK", help="Compare images by features of efficientnet_lite0, vgg16, squeezenet1_1 or alexnet."
        ),
    ] = None,
    features_weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights of that network: a .pth, .pt or .safetensors file.")
    ] = None,
    linear: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Linear weights of LPIPS for that network; then LPIPS is computed.")
    ] = None,
    num_samples: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Samples to compare with the images; default: as many as images.")
    ] = None,
    features_size: Annotated[
        int | None,
        typer.Option(min=1, max=4096, metavar="PIXELS", help="Size of the images whose sets are compared; default: 224."),
    ] = None,
    device: DeviceOption = "auto",
    precision: Annotated[str, typer.Option(metavar="fp32|bf16", help="Arithmetic of the importance samples.")] = "fp32",
    as_json: JsonOption = False,
) -> None:
    """Evaluate the best weights of a run, and write the metrics to its evaluation.json; other splits to evaluation-SPLIT.json."""
    from vaekit.cli.console import evaluation_lines

    request = feature_request(features, features_weights, linear, num_samples, features_size)
    results = open_run(run).evaluate(split=split, samples=samples, features=request, device=device, precision=precision)
    typer.echo(json.dumps(results) if as_json else "\n".join(evaluation_lines(results)))
