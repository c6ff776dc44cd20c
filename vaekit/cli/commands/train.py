"""``vaekit train``: a command whose flags are the options of the components that its own arguments choose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vaekit.cli.common import JsonOption, OutOption, Panel, QuietOption, interruptible
from vaekit.cli.options import SpecArgument, with_component_options

PANEL = Panel.TRAINING


def command(arguments: Sequence[str]) -> tuple[Callable[..., None], list[str]]:
    """Return the command with the options of the components that its arguments choose, and the arguments in normal form."""
    return with_component_options(train, arguments)


def train(
    spec: SpecArgument = None,
    *,
    out: OutOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
    base: Mapping[str, Any],
    given: Mapping[str, Any],
) -> None:
    """Train a model; by default on a built-in dataset of digits.

    The flags are the options of the components chosen: `vaekit train --encoder cnn --loss beta --help` shows those of `cnn`
    and `beta`. Each can also be written with its component's role: --loss.beta. Lists are written 512,256,
    and a numeric option of a loss may be a schedule over epochs: --beta "linear(0, 4, 10)"; see `vaekit components show beta`.
    """
    from vaekit.cli.console import choose_reporter
    from vaekit.run import train as run_training

    del spec  # it was read as `base` to find the options
    reporter = choose_reporter(json=json, quiet=quiet)
    with interruptible(reporter):
        run_training(base, out=out, reporter=reporter, **given)
