"""The loggers of a run: they receive metrics and pictures, and their failures never stop training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from vaekit import roles
from vaekit.data import ImageSource
from vaekit.drawing.examples import read_examples
from vaekit.drawing.latents import encode_means
from vaekit.errors import VaekitError, reason_of
from vaekit.model.vae import VAE
from vaekit.specs.models import RunSpec
from vaekit.training.logger import Codes, Logger, Outcome

if TYPE_CHECKING:
    from PIL import Image

SPLITS = ("train", "validation", "test")


class Loggers:
    """Forwards a run's metrics and pictures to all its loggers; a logger that fails is dropped with a warning.

    Used as a context manager, it stops the loggers on exit.

    Args:
        spec: The run's spec.
        enabled: Whether to use the spec's loggers at all.
    """

    def __init__(self, spec: RunSpec, *, enabled: bool = True) -> None:
        self.spec = spec
        self.chosen = spec.train.logger if enabled else ()
        self.live: list[Logger] = []

    def start(self, run: Path, step: int | None) -> tuple[str, ...]:
        """Start all loggers; return a line for each that states where to find its log.

        Args:
            run: The run folder.
            step: The number of steps in the completed epochs of a resumed run; None for a new run.

        Raises:
            VaekitError: A logger cannot start; those already started are stopped.
        """
        found = []
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
                    given=reason_of(error),
                    remedy=f"see `vaekit components show logger:{chosen.kind}`, or train without it",
                ) from error
            self.live.append(logger)
        return tuple(found)

    def epoch(self, record: Mapping[str, Any], pictures: Mapping[str, Image.Image]) -> None:
        """Log the record of an epoch, and its pictures by name."""

        def log(logger: Logger) -> None:
            logger.scalars(record["step"], numbers(record))
            for name, picture in pictures.items():
                logger.image(record["step"], name, picture)

        self._tell(log)

    def end(self, step: int, evaluation: Mapping[str, Any], codes: Callable[[int], Codes]) -> None:
        """Finish all loggers with the results of the run, after its last step."""
        values = numbers({f"test_{name}": value for name, value in evaluation.items()})
        outcome = Outcome(step, values, codes)
        self._tell(lambda logger: logger.end(outcome))
        self.live = []

    def stop(self) -> None:
        """Finish the loggers that are still active, without results: the run may be resumed."""
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
            except Exception as error:  # from any library, network or disk: a run must not fail because of its log
                self.live.remove(logger)
                warnings.warn(
                    f"the logger {logger.kind!r} failed and is disabled; training continues: {reason_of(error)}", stacklevel=2
                )


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of a record under the names that loggers receive.

    ``train_loss`` becomes ``train/loss``; a list with one number per latent becomes ``validation_kl_per_latent/00`` and so on.
    The step, booleans and anything else that is not a number are omitted.
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
    """Encode the first images of a dataset, at most ``most`` of them."""
    examples = read_examples(source, range(min(most, len(source))), spec.data.binarize)
    labels = None if examples.labels is None else tuple(examples.name(label) for label in examples.labels.tolist())
    codes = encode_means(vae.eval(), examples.to(vae.device)).cpu()
    return Codes(codes, vae.to_unit(examples.images), labels)
