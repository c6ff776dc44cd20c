"""The loggers of a run: told what training makes anyway, and never its end."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from vaekit import roles
from vaekit.data import ImageSource
from vaekit.errors import VaekitError
from vaekit.model.vae import VAE
from vaekit.pictures.examples import read_examples
from vaekit.pictures.latents import encode_means
from vaekit.specs.models import RunSpec
from vaekit.training.logger import Codes, Logger, Outcome

if TYPE_CHECKING:
    from PIL import Image

SPLITS = ("train", "validation", "test")


class Loggers:
    """Tells every logger of a run the same; one that fails is told no more, with a warning.

    As a context, it stops in the end.

    Args:
        spec: The run's spec.
        steps_per_epoch: Steps in each.
        enabled: Whether there are any at all.
    """

    def __init__(self, spec: RunSpec, steps_per_epoch: int, *, enabled: bool = True) -> None:
        self.spec, self.steps_per_epoch = spec, steps_per_epoch
        self.chosen = spec.train.logger if enabled else ()
        self.live: list[Logger] = []

    def start(self, run: Path, epochs: int | None) -> tuple[str, ...]:
        """Start each, and return where what it logs can be found.

        Args:
            run: The run folder.
            epochs: Epochs done by the run that is resumed; None for a new one.

        Raises:
            VaekitError: One cannot start; those that have are ended.
        """
        step, found = None if epochs is None else epochs * self.steps_per_epoch, []
        for chosen in self.chosen:
            try:
                logger = roles.loggers.build(chosen)
                found.append(f"{chosen.kind}: {logger.start(run, self.spec, step)}")
            except BaseException as error:
                self.stop()
                if isinstance(error, VaekitError) or not isinstance(error, Exception):
                    raise
                raise VaekitError(
                    f"the logger {chosen.kind!r} cannot start",
                    given=_text(error),
                    remedy=f"see `vaekit components show logger:{chosen.kind}`, or train without it",
                ) from error
            self.live.append(logger)
        return tuple(found)

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Tell an epoch's record."""
        self._tell(lambda logger: logger.scalars(record["step"], numbers(record)))

    def picture(self, epoch: int, name: str, picture: Image.Image) -> None:
        """Tell a picture of an epoch."""
        self._tell(lambda logger: logger.image(epoch * self.steps_per_epoch, name, picture))

    def end(self, evaluation: Mapping[str, Any], codes: Callable[[int], Codes]) -> None:
        """Tell what came out."""
        values = numbers({f"test_{name}": value for name, value in evaluation.items()})
        outcome = Outcome(self.spec.train.epochs * self.steps_per_epoch, values, codes)
        self._tell(lambda logger: logger.end(outcome))
        self.live = []

    def stop(self) -> None:
        """End those that were not ended, as of a run that may be resumed."""
        self._tell(lambda logger: logger.end(None))
        self.live = []

    def __enter__(self) -> Loggers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _tell(self, call: Callable[[Logger], None]) -> None:
        for logger in tuple(self.live):
            try:
                call(logger)
            except Exception as error:  # of any library, network or disk: the run is worth more than its log
                self.live.remove(logger)
                warnings.warn(
                    f"the logger {logger.kind!r} failed and is told no more; training goes on: {_text(error)}", stacklevel=2
                )


def _text(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a record by the names that loggers get.

    ``train_loss`` becomes ``train/loss``; a list, of a number for each latent, ``validation_kl_per_latent/00`` and so on. The
    step, what is no number and what is true or false are left out.
    """
    found: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, list):
            width = len(str(len(value) - 1))
            found |= {f"{name}/{place:0{width}}": float(each) for place, each in enumerate(value)}
        elif isinstance(value, int | float) and not isinstance(value, bool) and name != "step":
            split, _, rest = name.partition("_")
            found[f"{split}/{rest}" if split in SPLITS else name] = float(value)
    return found


def codes_of(vae: VAE, source: ImageSource, spec: RunSpec, most: int) -> Codes:
    """Encode the first images of a data set, at most ``most``."""
    examples = read_examples(source, range(min(most, len(source))), spec.data.binarize or "none", spec.train.seed)
    labels = None if examples.labels is None else tuple(examples.name(label) for label in examples.labels.tolist())
    return Codes(encode_means(vae.eval(), examples.images.to(vae.device)).cpu(), examples.images, labels)
