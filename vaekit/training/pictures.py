"""The pictures that a run takes of itself: the same inputs and the same noise each time, so that progress can be seen."""

from __future__ import annotations

import shutil

import torch

from vaekit.data import Batches
from vaekit.pictures.animation import write_gif
from vaekit.pictures.grid import grid, pairs, write_png
from vaekit.specs import RunSpec
from vaekit.streams import Streams
from vaekit.training.folder import RunFolder
from vaekit.vae import VAE

NUM_PAIRS = 16
NUM_SAMPLES = 36


class TrainingPictures:
    """Takes reconstructions and samples of chosen epochs, and a frame of every epoch for the animation.

    Args:
        spec: The run's spec; ``train.pictures`` says which epochs.
        folder: Where the pictures go.
        vae: The model.
        validation: Batches whose first images are reconstructed.
        streams: The run's random streams.
    """

    def __init__(self, spec: RunSpec, folder: RunFolder, vae: VAE, validation: Batches, streams: Streams) -> None:
        self.folder, self.vae, self.validation, self.streams = folder, vae, validation, streams
        self.enabled = spec.train.pictures != "none"
        self.chosen = chosen_epochs(spec.train.pictures, spec.train.epochs)

    @torch.no_grad()
    def take(self, epoch: int) -> None:
        """Take this epoch's pictures."""
        if not self.enabled:
            return
        vae = self.vae.eval()
        generator = self.streams.generator("pictures", 0, vae.device)
        samples = grid(vae.sample(NUM_SAMPLES, generator=generator))
        self.folder.frames.mkdir(parents=True, exist_ok=True)
        write_png(samples, self.folder.frames / f"{epoch:05d}.png")
        if epoch in self.chosen:
            originals = next(iter(self.validation.epoch(0))).inputs[:NUM_PAIRS]
            write_png(pairs(originals, vae.reconstruct(originals)), self.folder.reconstructions / f"epoch-{epoch:04d}.png")
            write_png(samples, self.folder.samples / f"epoch-{epoch:04d}.png")

    def animate(self) -> None:
        """Write the animation from the frames, and remove them."""
        if self.enabled and self.folder.frames.is_dir():
            frames = sorted(self.folder.frames.glob("*.png"))
            write_gif(frames, self.folder.gif, milliseconds=max(40, min(300, 9000 // max(1, len(frames)))))
        shutil.rmtree(self.folder.frames, ignore_errors=True)


def chosen_epochs(pictures: str | tuple[int, ...], epochs: int) -> frozenset[int]:
    """Return the epochs whose pictures are kept: those asked for, or 1, 2, 5, 10, 20, 50, … and the last."""
    if pictures == "none":
        return frozenset()
    if isinstance(pictures, tuple):
        return frozenset(pictures)
    steps = {factor * 10**power for power in range(7) for factor in (1, 2, 5)}
    return frozenset(step for step in steps if step < epochs) | {epochs}
