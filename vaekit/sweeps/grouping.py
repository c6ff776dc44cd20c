"""Grouping the models of a sweep into stacks that are trained together."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vaekit.compute.device import has_cpp_compiler
from vaekit.compute.layout import has_convolutions
from vaekit.errors import UsageError
from vaekit.model.objective import Objective
from vaekit.specs.models import RunSpec
from vaekit.sweeps.stack import difference, form, refusal
from vaekit.training.compilation import cpu_seconds
from vaekit.training.precision import choose_precision, num_products

Stacking = Literal["auto", "on", "off"]

PER_MODEL = frozenset(
    {"name", "tag", "seed", "init", "lr", "schedule", "lr_milestones", "lr_gamma", "warmup_steps", "weight_decay", "grad_clip"}
    | {"ema", "patience", "pictures", "logger"}
)
"""The training settings in which the models of a stack may differ."""
LARGEST_STACK = 32
"""The maximum number of models in a stack: dispatch is amortised by then, and memory grows with the number."""
LARGEST_MODEL = {"fp32": (4e7, 7.5e7), "bf16": (1.2e8, 1.5e8)}
"""The number of products per thread, in the forward pass of a batch, above which a model trains faster alone on a CPU: on one
thread, and on several; see `obstacle`."""
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


class Grouping:
    """Groups the models of a sweep, which are added one after another.

    Objectives are not kept, except those that other models were compared with, without their weights.

    Args:
        stack: ``on`` stacks all models that can be stacked, ``off`` none, ``auto`` those known to be faster in a stack.
        build: Returns the objective of a model by its position in the sweep.
    """

    def __init__(self, stack: Stacking, build: Callable[[int], Objective]) -> None:
        self.stack, self.build = stack, build
        self.specs: list[RunSpec] = []
        self.sets: list[list[int]] = []
        """The positions of models that differ in nothing but what may differ in a stack."""
        self._settings: list[dict[str, Any]] = []
        self._alike: dict[Hashable, list[list[int]]] = defaultdict(list)  # only these are compared, not all pairs
        self._firsts: dict[int, Objective] = {}
        self._notes: list[str] = []

    def add(self, spec: RunSpec, objective: Objective) -> None:
        """Add the next model.

        Args:
            spec: Its spec, fitted to this machine.
            objective: Its objective.
        """
        number = len(self.specs)
        self.specs.append(spec)
        if self.stack == "off":
            return
        self._settings.append(spec.data.model_dump(mode="json") | spec.train.model_dump(mode="json", exclude=set(PER_MODEL)))
        candidates = self._alike[json.dumps(self._settings[number]), form(objective)]
        own = next((numbers for numbers in candidates if self._difference(numbers[0], number, objective) is None), None)
        if own is not None:
            own.append(number)
            return
        self._notes += [f"not a single stack: {self._difference(0, number, objective)}"] if self.sets else []
        self.sets.append([number])
        candidates.append(self.sets[-1])

    def _difference(self, first: int, number: int, objective: Objective) -> str | None:
        """Return why two models are not of one set; None if they are."""
        one, other = self._settings[first], self._settings[number]
        if changed := [name for name, value in other.items() if value != one[name]]:
            return f"{changed[0]} differs"
        if first not in self._firsts:
            self._firsts[first] = self.build(first).to("meta")
        return difference(self._firsts[first], objective)

    def groups(self) -> tuple[list[Group], tuple[str, ...]]:
        """Return the groups of models to train together, and notes on why other models are trained separately.

        Raises:
            UsageError: ``stack`` is ``on``, and no models can be stacked.
        """
        if self.stack == "off":
            return [Group((number,)) for number in range(len(self.specs))], ()
        groups: list[Group] = []
        notes = [*self._notes]
        for numbers in self.sets:
            why, compiled = self._way(numbers)
            if why is not None:
                notes.append(f"{len(numbers)} of {len(self.specs)} models are trained one after another: {why}")
                groups += [Group((number,)) for number in numbers]
                continue
            parts = [numbers[low : low + LARGEST_STACK] for low in range(0, len(numbers), LARGEST_STACK)]
            groups += [Group(tuple(part), stacked=len(part) > 1, compiled=compiled and len(part) > 1) for part in parts]
        if self.stack == "on" and not any(group.stacked for group in groups):
            raise UsageError(
                "these models cannot be stacked",
                given="; ".join(notes),
                expected="models that differ only in seed, learning rate and numeric options of their losses",
                remedy="use --stack auto, which trains them one after another",
            )
        return groups, tuple(dict.fromkeys(notes))

    def _way(self, numbers: Sequence[int]) -> tuple[str | None, bool]:
        """Return why the models of a set are not stacked, None if they are, and whether their step is compiled."""
        if len(numbers) == 1:
            return "no other model has the same form", False
        spec, objective = self.specs[numbers[0]], self.build(numbers[0])
        if spec.train.accumulate > 1:
            return "stacks do not support gradient accumulation (--accumulate)", False
        why = refusal(objective) or (obstacle(spec, objective) if self.stack == "auto" else None)
        return why, why is None and compiling_pays(spec, objective, len(numbers))


def obstacle(spec: RunSpec, objective: Objective) -> str | None:
    """Return why stacking is not known to be faster for models of a spec; None if it is.

    A stack saves the overhead of separate steps, but each part of a step passes over the weights of all models before the next.
    Measured with 16 MLPs with one hidden layer and batches of 128 on an Intel Xeon with AMX (benchmarks/sweep.py), compiled or
    not. In fp32, models with up to 128 hidden units are faster in a stack on one thread, and with up to 512 on two. In bf16, it
    is up to 512 on one thread, and up to 1,024, the widest that were measured, on two. Stacked convolutions become grouped
    convolutions, which are slow on CPUs.

    Args:
        spec: A spec, fitted to this machine.
        objective: Its objective, on the CPU.
    """
    train = choose_precision(spec, objective).train
    if train.device == "cuda":
        return None
    if train.device != "cpu":
        return f"stacking has not been measured on {train.device}"
    if has_convolutions(objective):
        return "stacked convolutions are slower on a CPU"
    threads, (alone, several) = train.threads or 1, LARGEST_MODEL[train.precision]
    if num_products(objective) * train.batch_size > (alone if threads == 1 else several * threads):
        return f"models of this size are slower in a stack ({train.precision}, --threads {threads})"
    return None


def compiling_pays(spec: RunSpec, objective: Objective, num_models: int) -> bool:
    """Whether to compile the step of a stack: if requested or, on a CPU, if it saves more time than it takes."""
    train = spec.train
    if train.compile != "auto":
        return train.compile == "on"
    seconds = num_models * cpu_seconds(objective.vae, train, objective.num_data or 0)
    return train.device == "cpu" and seconds > WORTH_COMPILING_SECONDS and has_cpp_compiler()
