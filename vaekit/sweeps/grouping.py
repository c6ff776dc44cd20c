"""Grouping the models of a sweep into stacks that are trained together."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from vaekit.compute.device import has_cpp_compiler
from vaekit.compute.layout import has_convolutions
from vaekit.errors import UsageError
from vaekit.model.objective import Objective
from vaekit.specs.models import RunSpec
from vaekit.sweeps.stack import difference, form, refusal
from vaekit.training.compilation import cpu_seconds

Stacking = Literal["auto", "on", "off"]

PER_MODEL = frozenset(
    {"name", "tag", "seed", "init", "lr", "schedule", "lr_milestones", "lr_gamma", "warmup_steps", "weight_decay", "grad_clip"}
    | {"ema", "patience", "pictures", "logger"}
)
"""The training settings in which the models of a stack may differ."""
LARGEST_STACK = 32
"""The maximum number of models in a stack: dispatch is amortised by then, and memory grows with the number."""
WORTH_COMPILING_SECONDS = 150.0
"""The estimated sequential training time (`cpu_seconds`) of a stack's models above which compilation pays off."""


@dataclass(frozen=True)
class Group:
    """A stack of models, or models that are trained one by one.

    Args:
        numbers: The positions of the models in the sweep.
        stacked: Whether the models are stacked.
        compiled: Whether the step of the stack is compiled.
    """

    numbers: tuple[int, ...]
    stacked: bool = False
    compiled: bool = False


def plan(
    specs: Sequence[RunSpec], objectives: Sequence[Objective], stack: Stacking, build: Callable[[int], Objective] | None = None
) -> tuple[list[Group], tuple[str, ...]]:
    """Return the groups of models to train together, and notes on why other models are trained separately.

    Args:
        specs: Complete specs, adapted to this machine.
        objectives: The objective of each spec; on the meta device, without its weights, if there is a ``build``.
        stack: ``on`` stacks all models that can be stacked, ``off`` none, ``auto`` those known to be faster in a stack.
        build: Returns the objective of a number, with its weights.

    Raises:
        UsageError: ``stack`` is ``on``, and no models can be stacked.
    """
    if stack == "off":
        return [Group((number,)) for number in range(len(specs))], ()
    sets, notes = _by_form(specs, objectives)
    groups: list[Group] = []
    for numbers in sets:
        spec, objective = specs[numbers[0]], objectives[numbers[0]]
        why = "no other model has the same form" if len(numbers) == 1 else None
        if why is None and spec.train.accumulate > 1:
            why = "stacks do not support gradient accumulation (--accumulate)"
        why = why or refusal(objective if build is None else build(numbers[0]))
        if stack == "auto" and why is None:
            why = obstacle(spec, objective, len(numbers))
        if why is not None:
            notes.append(f"{len(numbers)} of {len(specs)} models are trained one after another: {why}")
            groups += [Group((number,)) for number in numbers]
            continue
        compiled = compiling_pays(spec, objective, len(numbers))
        parts = [numbers[low : low + LARGEST_STACK] for low in range(0, len(numbers), LARGEST_STACK)]
        groups += [Group(tuple(part), stacked=len(part) > 1, compiled=compiled and len(part) > 1) for part in parts]
    if stack == "on" and not any(group.stacked for group in groups):
        raise UsageError(
            "these models cannot be stacked",
            given="; ".join(notes),
            expected="models that differ only in seed, learning rate and numeric options of their losses",
            remedy="use --stack auto, which trains them one after another",
        )
    return groups, tuple(dict.fromkeys(notes))


def obstacle(spec: RunSpec, objective: Objective, num_models: int) -> str | None:
    """Return why stacking is not known to be faster for models of a spec; None if it is.

    Measured with 16 MLPs of 784-512-20 on an Intel Xeon with AMX (benchmarks/sweep.py): without compilation, they take 0.9 of the
    time on two threads, and 1.2 on one. Smaller ones gain more. Stacked convolutions become grouped convolutions, which are slow
    on CPUs.

    Args:
        spec: A resolved spec.
        objective: Its objective.
        num_models: The number of models in the stack.
    """
    train = spec.train
    if train.device == "cuda":
        return None
    if train.device != "cpu":
        return f"stacking has not been measured on {train.device}"
    if has_convolutions(objective):
        return "stacked convolutions are slower on a CPU"
    if train.threads == 1 and not compiling_pays(spec, objective, num_models):
        return "a stack without compilation is slower on one thread"
    return None


def compiling_pays(spec: RunSpec, objective: Objective, num_models: int) -> bool:
    """Whether to compile the step of a stack: if requested or, on a CPU, if it saves more time than it takes."""
    train = spec.train
    if train.compile != "auto":
        return train.compile == "on"
    seconds = num_models * cpu_seconds(objective.vae, train, objective.num_data or 0)
    return train.device == "cpu" and seconds > WORTH_COMPILING_SECONDS and has_cpp_compiler()


def _by_form(specs: Sequence[RunSpec], objectives: Sequence[Objective]) -> tuple[list[list[int]], list[str]]:
    """Group models of the same form; return the groups and notes on how they differ from the first."""
    settings = [spec.data.model_dump(mode="json") | spec.train.model_dump(mode="json", exclude=set(PER_MODEL)) for spec in specs]
    sets: list[list[int]] = []
    alike: dict[Hashable, list[list[int]]] = defaultdict(list)  # only these are compared, not all pairs
    notes: list[str] = []

    def why(number: int, other: int) -> str | None:
        changed = [name for name, value in settings[number].items() if value != settings[other][name]]
        return f"{changed[0]} differs" if changed else difference(objectives[other], objectives[number])

    for number, (own, objective) in enumerate(zip(settings, objectives, strict=True)):
        candidates = alike[json.dumps(own), form(objective)]
        numbers = next((numbers for numbers in candidates if why(number, numbers[0]) is None), None)
        if numbers is not None:
            numbers.append(number)
            continue
        notes += [f"not a single stack: {why(number, 0)}"] if sets else []
        sets.append([number])
        candidates.append(sets[-1])
    return sets, notes
