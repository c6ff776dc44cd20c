"""The training loop of stacked models."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from vaekit.compute.process import Interrupted, Interruption, threads
from vaekit.errors import DivergenceError
from vaekit.sweeps.stack import StackedStep
from vaekit.training.meter import Meter
from vaekit.training.progress import Reporter
from vaekit.training.trainer import CHECK_EVERY, Pace, Trainer


def fit_stacked(trainers: Sequence[Trainer], *, compiled: bool = False, reporter: Reporter) -> dict[int, DivergenceError]:
    """Train a stack of models to the last epoch and evaluate each; return the errors of diverged models by index.

    Args:
        trainers: The trainers of models that can be stacked; those with a checkpoint resume from it. All must be at the same
            step.
        compiled: Whether to compile the step.
        reporter: Receives a line after each epoch.

    Raises:
        Interrupted: The user stopped training; a checkpoint of each model was saved.
    """
    errors: dict[int, DivergenceError] = {}
    live, interruption = list(range(len(trainers))), Interruption()
    with interruption.listen(), ExitStack() as sessions, threads(trainers[0].spec.train.threads):
        for trainer in trainers:
            trainer.begin(resume=trainer.folder.last.exists())
            sessions.enter_context(trainer.session())
        stack: Stack | None = None
        while True:
            for number in [number for number in live if trainers[number].is_over]:
                if (reason := trainers[number].reason_to_stop()) is not None:
                    reporter.note(f"{trainers[number].folder.path.name} {reason}")
                trainers[number].finish()
                live.remove(number)
            if not live:
                return errors
            if stack is None or len(stack.trainers) != len(live):
                stack = Stack([trainers[number] for number in live], compiled=compiled, interruption=interruption)
            pace = stack.train_epoch()
            for place, number in enumerate(live):
                if place not in stack.errors:
                    try:
                        trainers[number].end_epoch(pace)
                    except DivergenceError as error:
                        stack.errors[place] = error
            for place, fault in sorted(stack.errors.items()):
                errors[live[place]] = fault
                reporter.note(f"{trainers[live[place]].folder.path.name} stops: {fault.message}")
            live = [number for number in live if number not in errors]
            if live:
                reporter.note(_progress([trainers[number] for number in live], pace.images_per_second))


class Stack:
    """The models of several trainers, trained together; each trainer keeps its folder, position and metrics.

    Args:
        trainers: The trainers of models that can be stacked, all at the same step.
        compiled: Whether to compile the step.
        interruption: Whether the user has requested to stop; default: never.
    """

    def __init__(self, trainers: Sequence[Trainer], *, compiled: bool = False, interruption: Interruption | None = None) -> None:
        self.trainers, self.first = list(trainers), trainers[0]
        self.step = StackedStep([trainer.step for trainer in trainers], compiled=compiled)
        self.interruption = interruption or Interruption()
        self.errors: dict[int, DivergenceError] = {}

    def train_epoch(self) -> Pace:
        """Take the remaining steps of the current epoch; return the pace per model.

        A model whose loss becomes non-finite is added to ``errors`` by index, and no longer checked or saved.

        Raises:
            Interrupted: The user stopped training; a checkpoint of each model was saved.
        """
        for trainer in self.trainers:
            trainer.step.objective.train()
        position, train, step = self.first.position, self.first.spec.train, self.first.step
        began, saved = time.perf_counter(), time.monotonic()
        start, seconds_before = position.step, position.seconds
        meter = _joined([trainer.meter for trainer in self.trainers])
        for reading in self.step.batches.readings(position.epoch, start=start):
            number, terms = reading.number, self.step(reading)
            meter.add(terms)
            for trainer in self.trainers:
                trainer.position.step += 1
                trainer.position.seconds = seconds_before + time.perf_counter() - began
            if step.device.type == "cpu" or number % CHECK_EVERY == 0:
                self._check(terms)
            if self.interruption.asked or time.monotonic() - saved > train.checkpoint_seconds:
                saved = time.monotonic()
                self._hand_out(meter)
                for trainer in self.alive:
                    trainer.save()
            if self.interruption.asked:
                raise Interrupted
            if number + 1 == step.num_steps:
                break
        self._hand_out(meter)
        if step.device.type == "cuda":
            torch.cuda.synchronize()
        taken = (position.step - start) * train.batch_size
        return Pace(began, taken / max(time.perf_counter() - began, 1e-9))

    @property
    def alive(self) -> list[Trainer]:
        """The trainers with finite losses."""
        return [trainer for number, trainer in enumerate(self.trainers) if number not in self.errors]

    def _check(self, terms: Mapping[str, Tensor]) -> None:
        """Record the models with a non-finite loss."""
        losses = terms["loss"].tolist()
        for number, trainer in enumerate(self.trainers):
            if number not in self.errors:
                try:
                    trainer.check_finite({"loss": losses[number]}, terms={name: values[number] for name, values in terms.items()})
                except DivergenceError as error:
                    self.errors[number] = error

    def _hand_out(self, meter: Meter) -> None:
        """Distribute the measurements to the trainers."""
        assert meter.sums is not None  # there was a step
        for number, trainer in enumerate(self.trainers):
            trainer.meter.names, trainer.meter.count = meter.names, meter.count
            trainer.meter.sums = meter.sums[:, number].clone()


def _joined(meters: Sequence[Meter]) -> Meter:
    """Combine the meters of all models."""
    joined = Meter()
    joined.names, joined.count = meters[0].names, meters[0].count
    sums = [meter.sums for meter in meters if meter.sums is not None]
    joined.sums = torch.stack(sums, 1) if sums else None
    return joined


def _progress(trainers: Sequence[Trainer], speed: float) -> str:
    """Describe the progress of the models in a stack."""
    values = [trainer.position.best for trainer in trainers if trainer.position.best is not None]
    what = "loss" if (criterion := trainers[0].criterion) is None else f"best {criterion.name}"
    done, epochs, num = trainers[0].position.epoch, trainers[0].spec.train.epochs, len(trainers)
    return (
        f"epoch {done:>{len(str(epochs))}}/{epochs}  {num} models  validation {what} {min(values):.2f} to {max(values):.2f}"
        f"  {num * speed:,.0f} images/s x models"
    )
