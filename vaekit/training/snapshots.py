"""The pictures of a run: always of the same inputs and noise, so that they show its progress."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vaekit.data import Batches
from vaekit.drawing.animation import evenly, write_animation
from vaekit.drawing.grid import grid, pairs
from vaekit.drawing.latents import num_columns
from vaekit.drawing.picture import write_picture
from vaekit.model.vae import VAE
from vaekit.specs.models import RunSpec
from vaekit.store.folder import RunFolder
from vaekit.streams import Streams

if TYPE_CHECKING:
    from PIL import Image

NUM_PAIRS = 16
NUM_SAMPLES = 36
MOST_FRAMES = 180
MOST_KEPT = 4 * MOST_FRAMES
"""The number of frames kept during training; of a longer run, every second, fourth, … epoch keeps its frame."""
LARGEST_FRAME = 520
"""The size in pixels above which a frame of the animation is shrunk; the pictures themselves are not."""


class Snapshots:
    """Takes reconstructions and samples at chosen epochs, and a frame for the animation at every epoch.

    Args:
        spec: The run's spec; ``train.pictures`` chooses the epochs.
        folder: The run folder, which receives the pictures.
        vae: The model.
        validation: The batches whose first images are reconstructed.
    """

    def __init__(self, spec: RunSpec, folder: RunFolder, vae: VAE, validation: Batches) -> None:
        self.folder, self.vae, self.validation = folder, vae, validation
        self.streams = Streams(spec.train.seed)
        self.enabled = spec.train.pictures != "none"
        self.chosen = chosen_epochs(spec.train.pictures, spec.train.epochs)
        self.animation = folder.gif.with_suffix(f".{spec.train.animation}")

    @cached_property
    def originals(self) -> tuple[Tensor, Tensor | None]:
        """The images to reconstruct, and their labels."""
        batch = next(iter(self.validation.epoch(0)))
        return batch.inputs[:NUM_PAIRS].clone(), None if batch.y is None else batch.y[:NUM_PAIRS].clone()

    @torch.no_grad()
    def take(self, epoch: int) -> dict[str, Image.Image]:
        """Write an epoch's frame, and its pictures if it is among the chosen epochs; return those pictures by name.

        They are written before the epoch's checkpoint, so a killed run loses none of them.
        """
        if not self.enabled:
            return {}
        vae = self.vae.eval()
        generator = self.streams.generator("pictures", 0, vae.device)
        sheet = grid(vae.to_unit(vae.sample(NUM_SAMPLES, generator=generator)).cpu(), columns=num_columns(vae))
        self.folder.frames.mkdir(parents=True, exist_ok=True)
        write_picture(sheet, self.folder.frames / f"{epoch:05d}.png")
        self._thin_out(epoch)
        if epoch not in self.chosen:
            return {}
        images = (self.originals[0], vae.reconstruct(*self.originals))
        pictures = {"reconstructions": pairs(*(vae.to_unit(each).cpu() for each in images)), "samples": sheet}
        for name, picture in pictures.items():
            write_picture(picture, self.folder.path / name / f"epoch-{epoch:04d}.png")
        return pictures

    def _thin_out(self, epoch: int) -> None:
        """Remove frames between others, so that their number does not grow with that of the epochs."""
        distance = 2 ** (epoch // MOST_KEPT).bit_length()
        kept = -distance
        for file in self._frames[:-1] if distance > 1 else ():
            if int(file.stem) - kept < distance:
                file.unlink()
            else:
                kept = int(file.stem)

    @property
    def _frames(self) -> list[Path]:
        return sorted(self.folder.frames.glob("*.png"), key=lambda file: int(file.stem))

    def animate(self) -> None:
        """Write the animation and remove its frames."""
        frames = self.folder.frames
        done = frames.with_name(".frames")  # renamed first, so that frames left by a kill are not animated
        if frames.is_dir():
            if self.enabled:
                write_frames(self._frames, self.animation)
            if done.exists():
                shutil.rmtree(done)
            frames.rename(done)
        shutil.rmtree(done, ignore_errors=True)

    def restore(self, epoch: int) -> None:
        """Restore the frames of a finished run that is continued after an epoch, from its animation."""
        frames = self.folder.frames
        if not self.enabled or frames.is_dir() or not self.animation.is_file():
            return
        started = frames.with_name(".restored")  # renamed at the end, so that a kill leaves all frames or none
        shutil.rmtree(started, ignore_errors=True)
        started.mkdir()
        found = read_frames(self.animation)
        for number, frame in enumerate(found):
            at = 1 + number * (epoch - 1) // max(1, len(found) - 1)
            frame.convert("RGB" if self.vae.data_shape[0] == 3 else "L").save(started / f"{at:05d}.png")
        started.rename(frames)


def write_frames(files: Sequence[Path], path: Path) -> None:
    """Animate PNG files in nine seconds or less; large frames are shrunk, and a long sequence is thinned out.

    A damaged frame is left out, with a warning; if none is left, there is no animation.
    """
    from PIL import Image

    frames = [frame for file in evenly(files, MOST_FRAMES) for frame in read_frames(file)]
    if not frames:
        return
    for frame in frames:
        frame.thumbnail((LARGEST_FRAME, LARGEST_FRAME), Image.Resampling.LANCZOS)
    write_animation(frames, path, milliseconds=max(40, min(300, 9000 // max(1, len(frames)))))


def read_frames(file: Path) -> list[Image.Image]:
    """Return the frames of a picture written by a run; none, with a warning, if it is damaged."""
    from PIL import Image, ImageSequence

    try:
        if not file.is_file():
            raise OSError(f"{file} is not a regular file")
        with Image.open(file) as opened:
            return [frame.copy() for frame in ImageSequence.Iterator(opened)]
    except Exception:  # Pillow's errors have no common base
        warnings.warn(f"{file} is damaged and is left out", stacklevel=3)
        return []


def chosen_epochs(pictures: str | tuple[int, ...], epochs: int) -> frozenset[int]:
    """Return the epochs whose pictures are kept: those requested, or 1, 2, 5, 10, 20, 50, … and the last."""
    if isinstance(pictures, tuple):
        return frozenset(pictures)
    if pictures == "none":
        return frozenset()
    if pictures.startswith("every:"):
        return frozenset(range(0, epochs + 1, int(pictures.removeprefix("every:")))) | {epochs}
    steps = {factor * 10**power for power in range(7) for factor in (1, 2, 5)}
    return frozenset(step for step in steps if step < epochs) | {epochs}
