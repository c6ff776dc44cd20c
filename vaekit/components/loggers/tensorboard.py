"""The logger ``tensorboard``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import NonNegativeInt
from torch import Tensor
from torch.nn import functional as F

from vaekit.drawing.tiles import WIDE, tiles
from vaekit.errors import UsageError
from vaekit.extras import import_extra
from vaekit.roles import loggers
from vaekit.specs.models import RunSpec, dump_spec
from vaekit.training.logger import Logger

if TYPE_CHECKING:
    from PIL import Image

    from vaekit.training.logger import Codes, Outcome

LARGEST_SPRITE = 8192
"""Maximum side length in pixels of the sprite image in TensorBoard's projector."""
LARGEST_THUMBNAIL = 64
"""Maximum side length in pixels of an image in the sprite."""


@loggers("tensorboard")
class Tensorboard(Logger):
    """TensorBoard: write curves, images and the latent projector to event files in the run folder.

    `tensorboard --logdir runs` shows all runs side by side. A resumed run continues in the same folder; repeated steps replace
    the earlier records. After training, the projector shows the codes of test images with their labels and thumbnails. Requires
    `pip install "vaekit[tensorboard]"`.

    Args:
        log_dir: Folder for logs, with a subfolder named after each run; default: `tensorboard` in the run folder.
        projector: Maximum number of test images to show in the projector; 0 for none.
    """

    def __init__(self, *, log_dir: str | None = None, projector: NonNegativeInt = 1000) -> None:
        self.log_dir, self.projector = log_dir, projector
        self.library = import_extra("torch.utils.tensorboard", "tensorboard", "the logger 'tensorboard'")
        self.writer: Any = None

    def start(self, run: Path, spec: RunSpec, step: int | None) -> str:
        folder = run / "tensorboard" if self.log_dir is None else Path(self.log_dir) / run.name
        if step is None and folder.exists():
            raise UsageError(
                f"{folder} already exists and belongs to another run", remedy="choose another --logger.log-dir or --out"
            )
        self.writer = self.library.SummaryWriter(str(folder), purge_step=None if step is None else step + 1)
        if step is None:
            self.writer.add_text("spec", f"```\n{dump_spec(spec)}\n```")
        return f"tensorboard --logdir {folder}"

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def image(self, step: int, name: str, picture: Image.Image) -> None:
        self.writer.add_image(name, np.asarray(picture), step, dataformats="HW" if picture.mode == "L" else "HWC")
        self.writer.flush()

    def end(self, outcome: Outcome | None) -> None:
        if outcome is not None:
            self.scalars(outcome.step, outcome.evaluation)
            if self.projector:
                codes = outcome.codes(self.projector)
                labels = None if codes.labels is None else [" ".join(label.split()) for label in codes.labels]
                self.writer.add_embedding(codes.means, labels, thumbnails(codes), outcome.step, "codes")
        self.writer.close()


def thumbnails(codes: Codes) -> Tensor:
    """Return thumbnails for the projector, ``(N, C, S, S)`` on black: grey or RGB, small enough for one sprite image."""
    drawn = codes.images.ndim < 4  # signals and table rows need not be drawn larger than they are shown
    images = tiles(codes.images, small=LARGEST_THUMBNAIL // WIDE if drawn else 1) / 255
    num, _, height, width = images.shape
    longest = max(height, width)
    right, bottom = longest - width, longest - height
    images = F.pad(images, (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2))
    side = min(longest, LARGEST_THUMBNAIL, LARGEST_SPRITE // int(np.ceil(num**0.5)))
    return images if side == longest else F.interpolate(images, size=(side, side), mode="area")
