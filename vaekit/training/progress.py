"""Progress reports: the interface that receives them during training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Start:
    """The facts known at the start of training.

    Args:
        run: The run folder.
        epochs: The total number of epochs.
        steps_per_epoch: The number of steps per epoch.
        num_steps: The total number of steps, at most that of all epochs.
        first_epoch: The number of epochs that a resumed run has already completed.
        num_images: The size of each split.
        num_parameters: The number of parameters of the objective.
        device: A description of the device, precision and launch mode.
        elbo: What ELBO means in this run.
        notes: What the user should know before the first metrics appear.
    """

    run: str
    epochs: int
    steps_per_epoch: int
    num_steps: int
    first_epoch: int
    num_images: Mapping[str, int]
    num_parameters: int
    device: str
    elbo: str
    notes: tuple[str, ...] = ()


class Reporter(Protocol):
    """Receives the progress of a run; all losses are in nats per image."""

    def start(self, start: Start) -> None:
        """Training is about to start."""

    def step(self, epoch: int, step: int, images_per_second: float, means: Mapping[str, float]) -> None:
        """A step is done; called at most a few times a second, with the epoch's means so far."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """An epoch is done; the record is its line of ``metrics.jsonl``."""

    def end(self, evaluation: Mapping[str, Any]) -> None:
        """Training is done; the evaluation is the content of ``evaluation.json``."""

    def note(self, line: str) -> None:
        """Report an event in a line of text: in a sweep, the end of an epoch of several models or of a run."""


class Silent:
    """Ignores all progress."""

    def start(self, start: Start) -> None: ...

    def step(self, epoch: int, step: int, images_per_second: float, means: Mapping[str, float]) -> None: ...

    def epoch(self, record: Mapping[str, Any]) -> None: ...

    def end(self, evaluation: Mapping[str, Any]) -> None: ...

    def note(self, line: str) -> None: ...
