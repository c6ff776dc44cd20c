"""The checkpoints of a run: the latest training state, from which it resumes, and the best weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaekit.compute.sharding import collect, like
from vaekit.data.fingerprint import changes
from vaekit.data.sources import Splits
from vaekit.errors import CheckpointError, DataError, reason_of
from vaekit.evaluation.metrics import Criterion
from vaekit.model.assembly import initial_state
from vaekit.specs.models import LIMITS, RunSpec, TrainSpec
from vaekit.specs.text import flat, value_text
from vaekit.store import checkpoint
from vaekit.store.folder import RunFolder
from vaekit.training.initial import read_initial
from vaekit.training.meter import Meter
from vaekit.training.step import Step

FREE = (
    "data.dataset.",  # the fingerprint of the data covers what matters of it
    *(f"train.{name}" for name in ("device", "compile", "parallel", "threads", "workers", "checkpoint_seconds")),
    *(f"train.{name}" for name in LIMITS),
    *(f"train.{name}" for name in ("name", "tag", "logger", "pictures", "animation")),
)
"""Settings that may change when a run is resumed."""


@dataclass
class Position:
    """The progress of training: everything a checkpoint needs besides tensors, since every draw is a function of (seed, step).

    Args:
        epoch: The number of completed epochs.
        step: The number of completed steps in the current epoch.
        best: The criterion's value in the best epoch so far; None before the first validation.
        best_epoch: The best epoch so far.
        seconds: Wall-clock time spent on training steps.
    """

    epoch: int = 0
    step: int = 0
    best: float | None = None
    best_epoch: int = 0
    seconds: float = 0.0

    def end_epoch(self, scores: Mapping[str, Any], criterion: Criterion | None) -> bool:
        """Record the end of an epoch; return whether it is the best so far.

        Args:
            scores: The metrics of the validation set.
            criterion: The metric that chooses the best epoch; None if it is the last.
        """
        self.epoch, self.step = self.epoch + 1, 0
        value = float(scores["loss" if criterion is None else criterion.name])
        improved = criterion is None or self.best is None or criterion.prefers(value, self.best)
        if improved:
            self.best, self.best_epoch = value, self.epoch
        return improved


class Checkpoints:
    """Reads and writes the checkpoints of a run. All processes must make each call; only the leading one accesses the files.

    Args:
        folder: The run folder.
        step: The training step whose state is saved and restored.
        splits: The data.
    """

    def __init__(self, folder: RunFolder, step: Step, splits: Splits) -> None:
        self.folder, self.step = folder, step
        self.spec, self.processes = step.spec, step.processes
        self.source = splits.train
        self.about: dict[str, Any] = {"facts": splits.facts, "data": splits.fingerprint}

    def check(self) -> None:
        """Check, before training, that its checkpoints will be readable.

        Raises:
            CheckpointError: It cannot.
        """
        checkpoint.check_readable(self.folder.last, self.spec, **self.about)

    def load_initial(self) -> tuple[str, ...]:
        """Load the weights named by the spec's ``init``, if any, and state initialised from training images; return notes.

        Raises:
            CheckpointError: They are missing or damaged.
            UsageError: They do not fit the model or the data.
        """
        step = self.step
        weights: dict[str, Tensor] = {}
        initial = read_initial(self.spec, step.objective.vae, self.about["facts"], self.processes)
        if initial is not None:
            weights = checkpoint.with_prefix("vae.", initial.weights)
            self._set(weights)
            self.about["init"] = initial.digest
        with step.gathered():
            state = initial_state(self.spec, step.whole, self.source)  # which depends on those weights
        self._set({name: tensor for name, tensor in state.items() if name not in weights})
        if step.average is not None:
            step.average.start()
        return () if initial is None else (initial.note,)

    @torch.no_grad()
    def _set(self, tensors: Mapping[str, Tensor]) -> None:
        """Set parameters and buffers of the objective."""
        own = self.step.objective.state_dict()
        for name, tensor in tensors.items():
            own[name].copy_(like(tensor.to(self.step.device), own[name]))

    def save_best(self, epoch: int) -> None:
        """Write the best weights so far: those of the objective, for evaluation, and those of the model alone."""
        with self.step.averaged():
            weights = collect(self.step.objective.state_dict(), self.processes)
            files = {self.folder.best: weights, self.folder.model: checkpoint.without_prefix("vae.", weights)}
            for path, tensors in files.items() if self.processes.leads else ():
                self._save(path, tensors, {"epoch": epoch})

    def load_best(self) -> int:
        """Load the best weights into the objective; return the epoch they come from.

        Raises:
            CheckpointError: The weights are missing or truncated, or their architecture does not match.
        """
        return checkpoint.load_best(self.step.objective, self.folder, device=self.step.device, processes=self.processes)

    def save_last(self, position: Position, meter: Meter) -> None:
        """Write the state that training resumes from."""
        sums = None if meter.sums is None else self.processes.sum(meter.sums.clone()) / self.processes.size
        tensors = checkpoint.with_prefix("objective.", self.step.objective.state_dict())
        tensors |= checkpoint.with_prefix("optimizer.", checkpoint.optimizer_tensors(self.step.optimizers))
        if self.step.average is not None:
            tensors |= checkpoint.with_prefix("average.", self.step.average.tensors)
        tensors = collect(tensors, self.processes)
        if not self.processes.leads:
            return
        if sums is not None:
            tensors["meter"] = sums
        state = {"meter_names": meter.names, "meter_count": meter.count, "threads": self.spec.train.threads}
        self._save(self.folder.last, tensors, asdict(position) | state)

    def load_last(self, *, allow_changed_data: bool = False) -> tuple[Position, Meter, tuple[str, ...]]:
        """Restore the latest state; return its position, its meter, and notes on what has changed since it was saved.

        Args:
            allow_changed_data: Whether changed data cause a note instead of an error.

        Raises:
            CheckpointError: The checkpoint is missing or truncated, or its architecture does not match.
            DataError: The data have changed.
        """
        path, step = self.folder.last, self.step
        tensors, header = checkpoint.load(path, device=step.device, processes=self.processes)
        self._require_same_spec(header.spec)
        self._require_as_many_epochs(header)
        self.about["init"] = header.init
        changed = changes(header.data, self.about["data"])
        if changed and not allow_changed_data:
            raise DataError(
                f"the data have changed since {self.folder.path} was trained",
                given="; ".join(changed),
                remedy="restore them; with --allow-changed-data, losses before and after are of different images",
            )
        checkpoint.load_weights(step.objective, checkpoint.without_prefix("objective.", tensors), path)
        try:
            checkpoint.load_optimizer_tensors(step.optimizers, checkpoint.without_prefix("optimizer.", tensors))
            position, meter, threads = self._read(header.state, tensors.get("meter"))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the state in {path} is damaged", given=reason_of(error), remedy="train the model again"
            ) from None
        if step.average is not None:
            averages = checkpoint.without_prefix("average.", tensors)
            step.average.tensors = checkpoint.matched(step.average.tensors, averages, path)
        now = {"torch": torch.__version__, "threads": self.spec.train.threads, "device": self.spec.train.device}
        then = {"torch": header.versions["torch"], "threads": threads, "device": header.spec.train.device}
        notes = tuple(f"{key} was {then[key]}, now {now[key]}: not bit-exact" for key in now if now[key] != then[key])
        notes += tuple(f"the data have changed: {change}" for change in changed)
        return position, meter, notes + self._new_length(header.spec.train, position)

    def _new_length(self, trained: TrainSpec, position: Position) -> tuple[str, ...]:
        """Return notes on a run whose number of steps has changed since it started; other schedules are in epochs."""
        step = self.step
        before, done = trained.num_steps(step.steps_per_epoch), position.epoch * step.steps_per_epoch + position.step
        notes: tuple[str, ...] = ()
        if before != step.num_steps and done < step.num_steps and self.spec.train.schedule == "cosine":
            rate = step.learning_rate(done)
            notes += (
                f"the learning rate follows a cosine over {step.num_steps:,} steps from here on, instead of {before:,}, and "
                f"continues at {rate:.3g}: the result differs from that of a run with this many steps from the start",
            )
        if before < done < step.num_steps:
            notes += (f"--max-steps had ended epoch {position.epoch} early: training continues with the next epoch",)
        return notes

    def _read(self, state: Mapping[str, Any], sums: Tensor | None) -> tuple[Position, Meter, int | None]:
        """Return the position, the meter and the number of threads of a state.

        Raises:
            KeyError: A part is missing.
            TypeError: There is an unknown part.
            ValueError: A part is not in the form that `save_last` writes.
        """
        rest, meter = dict(state), Meter()
        names, meter.count, threads = rest.pop("meter_names"), rest.pop("meter_count"), rest.pop("threads")
        meter.names, meter.sums = names, sums
        position = Position(**rest)
        numbers = (position.epoch, position.step, position.best_epoch, meter.count, threads or 0)
        reals = (position.seconds, 0.0 if position.best is None else position.best)
        if not (
            all(type(number) is int and number >= 0 for number in numbers)
            and all(isinstance(number, int | float) and math.isfinite(number) for number in reals)
            and position.epoch <= self.spec.train.epochs
            and position.step <= self.step.steps_per_epoch
            and isinstance(names, list)
            and len(names) == (0 if sums is None else len(sums))
        ):
            raise ValueError(f"{state}")
        return position, meter, threads

    def _require_same_spec(self, trained: RunSpec) -> None:
        """Refuse to resume if settings that determine the result have changed."""
        before, now = (flat(spec.model_dump(mode="json")) for spec in (trained, self.spec))
        names = [name for name in {**before, **now} if not name.startswith(FREE) and before.get(name) != now.get(name)]
        if names:
            raise CheckpointError(
                f"{self.folder.spec} is no longer the spec that {self.folder.path} was trained with",
                given="; ".join(f"{name} was {value_text(before.get(name))}, is {value_text(now.get(name))}" for name in names),
                remedy=f"restore it, or train a new run with it: vaekit train {self.folder.spec}",
            )

    def _require_as_many_epochs(self, header: checkpoint.Header) -> None:
        """Refuse to resume with fewer epochs than have been completed."""
        epoch = header.state.get("epoch", 0)
        if self.spec.train.epochs < epoch <= header.spec.train.epochs:
            raise CheckpointError(
                f"{self.folder.path} cannot be shortened",
                given=f"{self.spec.train.epochs} epochs, {epoch} of them completed",
                expected=f"{epoch} or more",
            )

    def _save(self, path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        checkpoint.save(path, tensors, self.spec, **self.about, state=state)

    @property
    def size(self) -> int:
        """The approximate size of the run's files in bytes."""
        return checkpoint.space_for(self.step.objective)
