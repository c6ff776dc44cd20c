"""``vaekit distill``: `train`, for a new decoder alone, starting from a run."""

from __future__ import annotations

import json as json_module
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vaekit.cli.common import JsonOption, OutOption, Panel, QuietOption, RunArgument, feature_request, interruptible
from vaekit.cli.options import spec_of_run, with_component_options

if TYPE_CHECKING:
    from vaekit.cli.options import Words

PANEL = Panel.TRAINING
FIXED = frozenset({"model", "init", "freeze", "encoder", "posterior", "prior", "condition", "latent_dim", "latent_stride"})
"""Training options that are taken from the run."""
PARITY = "Parity"


def command(arguments: Sequence[str]) -> tuple[Callable[..., None], list[str]]:
    """Return the command with the options of the decoder that its arguments choose, and the arguments in normal form."""
    return with_component_options(distill, arguments, without=FIXED, base_of=_distillation)


def _distillation(words: Words) -> Mapping[str, Any]:
    from vaekit.specs.second_stage import distillation

    return spec_of_run(words, "decoder", "cnn", distillation)


def _option(metavar: str, about: str) -> Any:
    return typer.Option(metavar=metavar, help=about, show_default=False, rich_help_panel=PARITY)


def distill(
    run: RunArgument = None,
    *,
    features: Annotated[str | None, _option("NETWORK", "Also compare images by features, as `vaekit evaluate` does.")] = None,
    features_weights: Annotated[Path | None, _option("FILE", "Weights of that network.")] = None,
    linear: Annotated[Path | None, _option("FILE", "Linear weights of LPIPS for that network.")] = None,
    out: OutOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
    base: Mapping[str, Any],
    given: Mapping[str, Any],
) -> None:
    """Train a smaller decoder for the codes of a trained model; the result is a run of the whole model.

    `vaekit distill RUN --decoder cnn --decoder.channels 32,16` trains only the decoder, with the likelihood and the data of the
    run: encoder, posterior and prior stay as they are, so either decoder can decode the same codes. Losses that compare
    pictures can be added: `--loss perceptual --perceptual.weights FILE`. Images are encoded once, unless augmentation or dynamic
    binarisation changes them. At the end, both decoders are compared: parameters, test metrics and speed (distillation.json).
    """
    from vaekit.benchmark.decoders import compare_decoders, decoder_table
    from vaekit.cli.console import choose_reporter
    from vaekit.run import Run
    from vaekit.run import train as run_training

    del run  # it was read as `base` to find the options
    request = feature_request(features, features_weights, linear)
    reporter = choose_reporter(json=json, quiet=quiet)
    with interruptible(reporter):
        student = run_training(base, out=out, reporter=reporter, **given)
    if os.environ.get("RANK", "0") != "0" or not student.folder.model.is_file():  # of several processes, one prints
        return
    result = compare_decoders(Run(base["train"]["init"]), student, features=request)
    if json:
        typer.echo(json_module.dumps({"event": "parity", **result}))
    elif not quiet:
        typer.echo(f"\n{decoder_table(result)}")
