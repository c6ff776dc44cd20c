"""What a logger is, and what it is told at the end of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vaekit.interfaces import Component

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image
    from torch import Tensor

    from vaekit.specs.models import RunSpec


class Codes(NamedTuple):
    """Where test images lie in the latent space: posterior means ``(N, D)``, images ``(N, C, H, W)``, names of labels if any."""

    means: Tensor
    images: Tensor
    labels: tuple[str, ...] | None


@dataclass(frozen=True)
class Outcome:
    """What a run came to, for its best weights.

    Args:
        step: Steps taken in all.
        evaluation: Numbers of the test set, as ``test/elbo``, in nats per image.
        codes: Encodes the first images of the test set, at most as many as asked for; called by those who want them.
    """

    step: int
    evaluation: Mapping[str, float]
    codes: Callable[[int], Codes]


class Logger(Component, ABC):
    """Sends a run's numbers and pictures elsewhere as they come; ``vaekit train --logger <kind>`` chooses it.

    Only the leading process of a run calls it, from one thread, and each run has one of its own. It must not draw from torch's
    generator. An error of `start` stops the run before it trains; an error of another call costs a warning and the rest of what
    the logger would have been told, never the run.
    """

    @abstractmethod
    def start(self, run: Path, spec: RunSpec, step: int | None) -> str:
        """Begin, or go on where a run is resumed; return in one line where a person finds what is logged.

        Args:
            run: The run folder; what a resumed run must know, as an id, is kept there.
            spec: The resolved spec.
            step: None for a new run. Of a resumed one the last step that counts: whatever was told of later ones is void, and
                is told again.
        """

    @abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of an epoch, as ``train/loss``, ``lr`` or ``validation_kl_per_latent/07``; steps increase."""

    @abstractmethod
    def image(self, step: int, name: str, picture: Image.Image) -> None:
        """Take a picture, grey or RGB, of an epoch whose numbers were taken: ``reconstructions`` or ``samples``."""

    @abstractmethod
    def end(self, outcome: Outcome | None) -> None:
        """Finish with what the run came to, or with None where it was stopped; it may be resumed later, by another instance."""
