"""Which models of a sweep are trained together, and the loop that does it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

from vaekit.assembly import build_objective, build_vae, cpu_seconds, has_convolutions, has_cpp_compiler
from vaekit.data import Splits
from vaekit.errors import DivergenceError, UsageError
from vaekit.objective import Objective
from vaekit.specs import RunSpec
from vaekit.training.process import Interruption, threads
from vaekit.training.stacked import Stack, difference, refusal
from vaekit.training.trainer import Trainer

Stacking = Literal["auto", "on", "off"]

PER_MODEL = frozenset({"seed", "lr", "schedule", "weight_decay", "grad_clip", "ema", "pictures", "logger"})
"""Settings of training that models of one stack may differ in."""
LARGEST_STACK = 32
"""Models in a stack: dispatch is amortised by then, and memory grows with their number."""
COMPILE_SECONDS = 150.0
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


def plan(specs: Sequence[RunSpec], splits: Sequence[Splits], stack: Stacking) -> tuple[list[Group], tuple[str, ...]]:
    """Return who is trained with whom, and why others are trained alone.

    Args:
        specs: Resolved specs.
        splits: The data of each.
        stack: ``on`` stacks whatever can be, ``off`` nothing; ``auto`` does where it is known to be faster.

    Raises:
        UsageError: ``stack`` is ``on``, and some models cannot be stacked.
    """
    if stack == "off":
        return [Group((number,)) for number in range(len(specs))], ()
    sets, notes = _alike(specs, splits)
    groups: list[Group] = []
    for numbers, objective in sets:
        first = specs[numbers[0]]
        why = "it is the only one of its form" if len(numbers) == 1 else refusal(objective)
        work = first, objective, len(splits[numbers[0]].train), len(numbers)
        if stack == "auto" and why is None:
            why = obstacle(*work)
        if why is not None:
            notes.append(f"{len(numbers)} of {len(specs)} models one after another: {why}")
            groups += [Group((number,)) for number in numbers]
            continue
        compiled = compiling_pays(*work)
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


def obstacle(spec: RunSpec, objective: Objective, num_images: int, num_models: int) -> str | None:
    """Say why stacking is not known to be faster for models of a spec, or None.

    Measured on 2 cores with 16 models (benchmarks/sweep.py): MLPs take 0.7 to 0.9 of the time, compiled 0.4 to 0.6, the less the
    smaller they are; on one thread those that are not compiled take 1.2 of it. Stacked convolutions become grouped ones, which
    CPUs do slowly.

    Args:
        spec: A resolved spec.
        objective: Its objective.
        num_images: Images of an epoch.
        num_models: Models that would be stacked.
    """
    train = spec.train
    if train.device == "cuda":
        return None
    if train.device != "cpu":
        return f"stacking was not measured on {train.device}"
    if has_convolutions(objective):
        return "convolutions are slower stacked on a CPU"
    if train.threads == 1 and not compiling_pays(spec, objective, num_images, num_models):
        return "a stack that is not compiled is slower on one thread"
    return None


def compiling_pays(spec: RunSpec, objective: Objective, num_images: int, num_models: int) -> bool:
    """Whether to compile the step of a stack: where asked to, or on a CPU if it takes less time than it saves."""
    train = spec.train
    if train.compile != "auto":
        return train.compile == "on"
    seconds = num_models * cpu_seconds(objective.vae, train, num_images)
    return train.device == "cpu" and seconds > COMPILE_SECONDS and has_cpp_compiler()


def fit_stacked(
    trainers: Sequence[Trainer], *, compiled: bool = False, tell: Callable[[str], None] = lambda line: None
) -> dict[int, DivergenceError]:
    """Train models together to the last epoch and evaluate each; return, by number, the errors of those that diverged.

    Args:
        trainers: Of models that can be stacked; those whose folder holds a checkpoint take it up, and all are equally far then.
        compiled: Whether to compile the step.
        tell: Receives a line after each epoch.

    Raises:
        Interrupted: The user stopped; a checkpoint of each model was saved.
    """
    errors: dict[int, DivergenceError] = {}
    live, train = list(range(len(trainers))), trainers[0].spec.train
    interruption = Interruption()
    with interruption.listen(), ExitStack() as sessions, threads(train.threads):
        for trainer in trainers:
            trainer.begin(resume=trainer.folder.last.exists())
            sessions.enter_context(trainer.session())
        stack = Stack(trainers, compiled=compiled, interruption=interruption)
        while live and stack.first.position.epoch < train.epochs:
            began = time.perf_counter()
            speed = stack.train_epoch()
            for place, number in enumerate(live):
                if place not in stack.errors:
                    try:
                        trainers[number].complete_epoch(speed, began)
                    except DivergenceError as error:
                        stack.errors[place] = error
            for place, fault in sorted(stack.errors.items()):
                errors[live[place]] = fault
                tell(f"{trainers[live[place]].folder.path.name} stops: {fault.message}")
            live = [number for number in live if number not in errors]
            if live:
                tell(_progress([trainers[number] for number in live], speed))
            if live and stack.errors:
                stack = Stack([trainers[number] for number in live], compiled=compiled, interruption=interruption)
        for number in live:
            trainers[number].finish()
    return errors


def _alike(specs: Sequence[RunSpec], splits: Sequence[Splits]) -> tuple[list[tuple[list[int], Objective]], list[str]]:
    """Sort models into sets of one form, each with the objective of one of them; say what told the sets apart."""
    sets: list[tuple[list[int], Objective, Mapping[str, Any]]] = []
    notes: list[str] = []
    for number, spec in enumerate(specs):
        objective = build_objective(
            spec.model, build_vae(spec.model, splits[number].shape, seed=0), num_data=len(splits[number].train)
        )
        settings = spec.data.model_dump(mode="json") | spec.train.model_dump(mode="json", exclude=set(PER_MODEL))
        apart = []
        for numbers, other, others in sets:
            changed = [name for name in settings if settings[name] != others[name]]
            why = f"{changed[0]} differs" if changed else difference(other, objective)
            if why is None:
                numbers.append(number)
                break
            apart.append(why)
        else:
            sets.append(([number], objective, settings))
            notes += [f"not all in one stack: {why}" for why in apart[:1]]
    return [(numbers, objective) for numbers, objective, _ in sets], notes


def _progress(trainers: Sequence[Trainer], speed: float) -> str:
    """Say how far the models of a stack have come."""
    losses = [trainer.position.best for trainer in trainers if trainer.position.best is not None]
    done, epochs, num = trainers[0].position.epoch, trainers[0].spec.train.epochs, len(trainers)
    return (
        f"epoch {done:>{len(str(epochs))}}/{epochs}  {num} models  best validation loss {min(losses):.2f} to {max(losses):.2f}"
        f"  {num * speed:,.0f} images/s x models"
    )
