"""The base class of loggers, and the results they receive at the end of a run."""

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
    """Test examples and their codes: posterior means ``(N, D)``, examples ``(N, *shape)`` in [0, 1], and label names, if any."""

    means: Tensor
    images: Tensor
    labels: tuple[str, ...] | None


@dataclass(frozen=True)
class Outcome:
    """The results of a run, for its best weights.

    Args:
        step: The total number of steps.
        evaluation: The test metrics, such as ``test/elbo``, in nats per image.
        codes: A function that encodes at most the given number of test images, the first ones; called only on demand.
    """

    step: int
    evaluation: Mapping[str, float]
    codes: Callable[[int], Codes]


class Logger(Component, ABC):
    """Sends a run's metrics and pictures to another destination during training; chosen by ``vaekit train --logger <kind>``.

    Each run has its own instance, which only the leading process calls, from a single thread. A logger must not use
    torch's global generator. If `start` raises, the run stops before it trains; if another method raises, a warning is issued
    and the logger is not called again, but the run continues.

    Example:
        >>> @vaekit.loggers("csv")
        ... class Csv(vaekit.Logger):
        ...     def start(self, run, spec, step):
        ...         self.file = (run / "log.csv").open("a")
        ...         return self.file.name
        ...
        ...     def scalars(self, step, values):
        ...         for name, value in values.items():
        ...             print(step, name, value, sep=",", file=self.file)
        ...
        ...     def image(self, step, name, picture):
        ...         pass
        ...
        ...     def end(self, outcome):
        ...         self.file.close()
        >>> run = vaekit.train(logger="csv", epochs=1, pictures="none")
        >>> "62,train/loss," in (run.path / "log.csv").read_text()
        True
    """

    @abstractmethod
    def start(self, run: Path, spec: RunSpec, step: int | None) -> str:
        """Start logging, or continue the log of a resumed run; return one line that tells the user where to find it.

        Args:
            run: The run folder; store there anything that a resumed run needs, such as an id.
            spec: The resolved spec.
            step: None for a new run. For a resumed run, the last step that is valid: anything logged for later steps is obsolete
                and will be logged again.
        """

    @abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log the metrics of an epoch, such as ``train/loss``, ``lr`` or ``validation_kl_per_latent/07``; steps increase."""

    @abstractmethod
    def image(self, step: int, name: str, picture: Image.Image) -> None:
        """Log a picture (``reconstructions`` or ``samples``), grey or RGB, of an epoch whose metrics have been logged."""

    @abstractmethod
    def end(self, outcome: Outcome | None) -> None:
        """Finish with the results of the run, or with None if it was stopped; another instance may resume it later."""
