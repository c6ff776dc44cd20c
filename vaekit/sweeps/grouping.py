"""Which models of a sweep are trained together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vaekit.compute.device import has_cpp_compiler
from vaekit.compute.layout import has_convolutions
from vaekit.errors import UsageError
from vaekit.model.objective import Objective
from vaekit.specs.models import RunSpec
from vaekit.sweeps.stack import difference, refusal
from vaekit.training.compilation import cpu_seconds

Stacking = Literal["auto", "on", "off"]

PER_MODEL = frozenset({"seed", "lr", "schedule", "weight_decay", "grad_clip", "ema", "pictures", "logger"})
"""Settings of training that models of one stack may differ in."""
LARGEST_STACK = 32
"""Models in a stack: dispatch is amortised by then, and memory grows with their number."""
WORTH_COMPILING_SECONDS = 150.0
"""Training of a stack's models one after another on a CPU, by `cpu_seconds`, from which compiling the stack pays."""


@dataclass(frozen=True)
class Group:
    """Models that are trained together, or one that is trained alone.

    Args:
        numbers: Their places in the sweep.
        stacked: Whether they are stepped together.
        compiled: Whether the stack's step is compiled.
    """

    numbers: tuple[int, ...]
    stacked: bool = False
    compiled: bool = False


def plan(specs: Sequence[RunSpec], objectives: Sequence[Objective], stack: Stacking) -> tuple[list[Group], tuple[str, ...]]:
    """Return which models are trained together, and why others are trained alone.

    Args:
        specs: Whole specs, fitted to this machine.
        objectives: The objective of each.
        stack: ``on`` stacks whatever can be, ``off`` nothing; ``auto`` does where it is known to be faster.

    Raises:
        UsageError: ``stack`` is ``on``, and some models cannot be stacked.
    """
    if stack == "off":
        return [Group((number,)) for number in range(len(specs))], ()
    sets, notes = _alike(specs, objectives)
    groups: list[Group] = []
    for numbers in sets:
        spec, objective = specs[numbers[0]], objectives[numbers[0]]
        why = "it is the only one of its form" if len(numbers) == 1 else refusal(objective)
        if stack == "auto" and why is None:
            why = obstacle(spec, objective, len(numbers))
        if why is not None:
            notes.append(f"{len(numbers)} of {len(specs)} models one after another: {why}")
            groups += [Group((number,)) for number in numbers]
            continue
        compiled = compiling_pays(spec, objective, len(numbers))
        parts = [numbers[low : low + LARGEST_STACK] for low in range(0, len(numbers), LARGEST_STACK)]
        groups += [Group(tuple(part), stacked=len(part) > 1, compiled=compiled and len(part) > 1) for part in parts]
    if stack == "on" and not any(group.stacked for group in groups):
        raise UsageError(
            "these models cannot be stacked",
            given="; ".join(notes),
            expected="models that differ in seed, learning rate and numbers of their losses only",
            remedy="--stack auto trains them one after another",
        )
    return groups, tuple(dict.fromkeys(notes))


def obstacle(spec: RunSpec, objective: Objective, num_models: int) -> str | None:
    """Say why stacking is not known to be faster for models of a spec, or None.

    Measured on 2 cores with 16 models (benchmarks/sweep.py): MLPs take 0.7 to 0.9 of the time, compiled 0.4 to 0.6, the less the
    smaller they are; on one thread those that are not compiled take 1.2 of it. Stacked convolutions become grouped ones, which
    CPUs do slowly.

    Args:
        spec: A resolved spec.
        objective: Its objective.
        num_models: Models that would be stacked.
    """
    train = spec.train
    if train.device == "cuda":
        return None
    if train.device != "cpu":
        return f"stacking was not measured on {train.device}"
    if has_convolutions(objective):
        return "convolutions are slower stacked on a CPU"
    if train.threads == 1 and not compiling_pays(spec, objective, num_models):
        return "a stack that is not compiled is slower on one thread"
    return None


def compiling_pays(spec: RunSpec, objective: Objective, num_models: int) -> bool:
    """Whether to compile the step of a stack: where asked to, or on a CPU if it takes less time than it saves."""
    train = spec.train
    if train.compile != "auto":
        return train.compile == "on"
    seconds = num_models * cpu_seconds(objective.vae, train, objective.num_data or 0)
    return train.device == "cpu" and seconds > WORTH_COMPILING_SECONDS and has_cpp_compiler()


def _alike(specs: Sequence[RunSpec], objectives: Sequence[Objective]) -> tuple[list[list[int]], list[str]]:
    """Sort models into sets of one form; say what told the sets apart."""
    settings = [spec.data.model_dump(mode="json") | spec.train.model_dump(mode="json", exclude=set(PER_MODEL)) for spec in specs]
    sets: list[list[int]] = []
    notes: list[str] = []
    for number, (own, objective) in enumerate(zip(settings, objectives, strict=True)):
        apart = []
        for numbers in sets:
            other = numbers[0]
            changed = [name for name in own if own[name] != settings[other][name]]
            why = f"{changed[0]} differs" if changed else difference(objectives[other], objective)
            if why is None:
                numbers.append(number)
                break
            apart.append(why)
        else:
            sets.append([number])
            notes += [f"not all in one stack: {why}" for why in apart[:1]]
    return sets, notes
