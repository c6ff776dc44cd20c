"""``vaekit fit-prior``: `train`, for the prior alone, starting from a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vaekit.cli.common import JsonOption, OutOption, Panel, QuietOption, RunArgument, interruptible
from vaekit.cli.options import spec_of_run, with_component_options

if TYPE_CHECKING:
    from vaekit.cli.options import Words

PANEL = Panel.TRAINING
FIXED = frozenset(
    {"model", "init", "freeze", "encoder", "decoder", "posterior", "likelihood", "condition", "latent_dim", "latent_stride"}
)
"""Training options that are taken from the run."""


def command(arguments: Sequence[str]) -> tuple[Callable[..., None], list[str]]:
    """Return the command with the options of the prior that its arguments choose, and the arguments in normal form."""
    return with_component_options(fit_prior, arguments, without=FIXED, base_of=_second_stage)


def _second_stage(words: Words) -> Mapping[str, Any]:
    from vaekit.specs.second_stage import second_stage

    return spec_of_run(words, "prior", "mixture", second_stage)


def fit_prior(
    run: RunArgument = None,
    *,
    out: OutOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
    base: Mapping[str, Any],
    given: Mapping[str, Any],
) -> None:
    """Fit a prior to the codes of a trained model; the result is a run of the whole model.

    `vaekit fit-prior RUN --prior rectified_flow --epochs 50` trains only the prior, with the loss that suits it, on the data
    of the run: codes and reconstructions stay as they are. `sample`, `evaluate`, `report` and `export` work on the new run.
    Images are encoded once, unless augmentation or dynamic binarisation changes them. `--prior maf --help` shows the options of
    `maf`.
    """
    from vaekit.cli.console import choose_reporter
    from vaekit.run import train as run_training

    del run  # it was read as `base` to find the options
    reporter = choose_reporter(json=json, quiet=quiet)
    with interruptible(reporter):
        run_training(base, out=out, reporter=reporter, **given)
