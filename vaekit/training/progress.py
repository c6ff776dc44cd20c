"""What a trainer tells while it works, and to whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Start:
    """What is known when training starts.

    Args:
        run: The run folder.
        epochs: Passes that will be made in all.
        steps_per_epoch: Steps in each.
        first_epoch: Epochs done already, by the run that this one resumes.
        num_images: Sizes of the splits.
        num_parameters: Parameters of the objective.
        device: Where it computes.
        elbo: What the numbers called ELBO mean here.
        notes: What a user should know before numbers appear.
    """

    run: str
    epochs: int
    steps_per_epoch: int
    first_epoch: int
    num_images: Mapping[str, int]
    num_parameters: int
    device: str
    elbo: str
    notes: tuple[str, ...] = ()


class Reporter(Protocol):
    """Receives the progress of a run; everything is in nats per image."""

    def start(self, start: Start) -> None:
        """Training is about to start."""

    def step(self, epoch: int, step: int, images_per_second: float, means: Mapping[str, float]) -> None:
        """A step is done; called a few times a second at most, with the epoch's means so far."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """An epoch is done; the record is what ``metrics.jsonl`` holds."""

    def end(self, evaluation: Mapping[str, Any]) -> None:
        """Training is done; the evaluation is what ``evaluation.json`` holds."""

    def note(self, line: str) -> None:
        """Something happened that a line of text says: in a sweep, an epoch of several models or the end of one."""


class Silent:
    """Tells nobody."""

    def start(self, start: Start) -> None: ...

    def step(self, epoch: int, step: int, images_per_second: float, means: Mapping[str, float]) -> None: ...

    def epoch(self, record: Mapping[str, Any]) -> None: ...

    def end(self, evaluation: Mapping[str, Any]) -> None: ...

    def note(self, line: str) -> None: ...
