"""Batches: gathered, scaled, augmented and binarised in tensors on the device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vaekit.data.augment import NUM_DRAWS, augment
from vaekit.data.binarize import binarize, draw_fixed_noise, draw_noise
from vaekit.data.sources import TensorImages
from vaekit.errors import DataError, UsageError
from vaekit.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vaekit.data.sources import ImageSource
    from vaekit.data.specs import AugmentSpec, Binarize


@dataclass(frozen=True, slots=True)
class Batch:
    """Images of one step."""

    x: Tensor
    """``(B, C, H, W)``, float32, scaled to [0, 1]: what the likelihood scores."""
    inputs: Tensor
    """What the encoder sees: ``x`` itself unless augmentation's target is the original."""
    y: Tensor | None
    """Labels, int64 ``(B,)``, where the set has any."""
    index: Tensor
    """Positions in the source, int64 ``(B,)``."""
    whole: int | None = None
    """Images in the batch over all ranks; as many as here unless given."""
    offset: int = 0
    """Where this rank's images begin among those."""
    step: int = 0
    """Number of the batch within its epoch."""

    def share(self, draw: Callable[[int], Tensor]) -> Tensor:
        """Return this rank's part of what ``draw`` gives for the whole batch, so that one rank equals many."""
        size = len(self.x)
        if self.whole is None or self.whole == size:
            return draw(size)
        return draw(self.whole)[self.offset : self.offset + size]


class Batches:
    """The batches of a split, epoch by epoch; each depends on (seed, epoch, step) and on nothing that went before.

    Training visits the images in an order that differs each epoch, and leaves the short last batch out. Evaluation visits all
    in sequence, without augmentation. Dynamic binarisation is drawn anew at each training step; in evaluation its noise belongs
    to the image, so that every evaluation sees the same pictures, whatever the batch size, the device or the number of ranks.
    Static noise belongs to the image and the split alone: runs of all seeds share one binary data set.

    Args:
        source: The images of one split.
        batch_size: Size of a batch over all ranks together.
        streams: The run's random streams; "order", "augment" and "binarise" are used.
        binarize: How grey values become 0 or 1.
        augment: Random changes of the images, in training.
        device: Where the batches are made; a source in memory is moved there.
        train: Whether to train on the batches, or to evaluate.
        split: Name of the split.
        rank: Which part of each batch to yield. Noise is drawn for the whole batch: the ranks' parts make up that of one rank.
        world_size: Number of parts. In the last evaluation batch a part may hold fewer images than the others, or none.
        in_turn: Yield every ``world_size``-th batch whole, instead of a part of each: in evaluation, for statistics of a batch.
        workers: Processes that read a source which does not lie in memory; 0 reads in this process.
        memory_format: How pixels lie in memory.

    Raises:
        UsageError: The settings do not fit each other or the images.
        DataError: The images cannot be binarised.
    """

    def __init__(
        self,
        source: ImageSource,
        *,
        batch_size: int,
        streams: Streams,
        binarize: Binarize = "none",
        augment: AugmentSpec | None = None,
        device: torch.device | str = "cpu",
        train: bool = True,
        split: str = "train",
        rank: int = 0,
        world_size: int = 1,
        in_turn: bool = False,
        workers: int = 0,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self.batch_size, self.streams, self.binarize, self.train, self.split = batch_size, streams, binarize, train, split
        self.augment = augment if augment is not None and train and not augment.is_off else None
        self.device, self.rank, self.world_size, self.workers = torch.device(device), rank, world_size, workers
        self.in_turn, self.memory_format = in_turn, memory_format
        _check(source, batch_size=batch_size, binarize=binarize, augment=self.augment, train=train, world_size=world_size)
        self.source = source.to(self.device)
        full, rest = divmod(len(source), batch_size)
        self.steps_per_epoch: int = full if train else full + (rest > 0)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch.

        Args:
            epoch: Counted from 0.
            start: First step within the epoch: where to take up an interrupted one.
        """
        source = self.source if self._binarized is None else self._binarized
        order = self._order(epoch).to(source.device)
        steps = range(start, self.steps_per_epoch)
        if self.in_turn:
            steps = steps[self.rank :: self.world_size]
        for step, (index, raw) in zip(steps, self._read(source, (order[self._span(step)] for step in steps)), strict=True):
            y = None if source.labels is None else source.labels.index_select(0, index)
            yield self._finish(epoch * self.steps_per_epoch + step, step, index, raw, y)

    def _order(self, epoch: int) -> Tensor:
        if not self.train:
            return torch.arange(len(self.source))
        return torch.randperm(len(self.source), generator=self.streams.generator("order", epoch))

    def _span(self, step: int) -> slice:
        """The part of the epoch's order that is this rank's at a step."""
        low = step * self.batch_size
        size = min(self.batch_size, len(self.source) - low)
        if self.in_turn:
            return slice(low, low + size)
        return slice(low + size * self.rank // self.world_size, low + size * (self.rank + 1) // self.world_size)

    def _read(self, source: ImageSource, parts: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        if self.workers == 0 or source.resident:
            yield from ((index, source.gather(index)) for index in parts)
            return
        loader = DataLoader(
            _Reader(source),
            batch_size=None,
            sampler=list(parts),
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else it seeds its workers from the global generator, which dropout uses
        )
        for item in loader:
            if isinstance(item, DataError):
                raise item
            yield item

    def _finish(self, number: int, step: int, index: Tensor, raw: Tensor, y: Tensor | None) -> Batch:
        """Make a batch of raw images; ``number`` counts the steps of the run, ``step`` those of the epoch."""
        low, span = step * self.batch_size, self._span(step)
        whole, part = min(self.batch_size, len(self.source) - low), slice(span.start - low, span.stop - low)
        raw, index = raw.to(self.device, non_blocking=True), index.to(self.device, non_blocking=True)
        y = None if y is None else y.to(self.device, non_blocking=True)
        x = raw / 255 if raw.dtype == torch.uint8 else raw
        inputs = x
        if self.augment is not None:
            generator = self.streams.generator("augment", number, self.device)
            draws = torch.rand(whole, NUM_DRAWS, generator=generator, device=self.device)
            inputs = augment(x, self.augment, draws[part])
            if self.augment.target == "augmented":
                x = inputs
        if self.binarize != "none" and self._binarized is None:
            noise = self._noise(number, part, index)
            shared = inputs is x
            x = binarize(x, noise)
            inputs = x if shared else binarize(inputs, noise)
        shared, x = inputs is x, x.contiguous(memory_format=self.memory_format)
        inputs = x if shared else inputs.contiguous(memory_format=self.memory_format)
        return Batch(x, inputs, y, index, whole, part.start, step)

    def _noise(self, number: int, part: slice, index: Tensor) -> Tensor | None:
        """Noise that turns the grey images at ``index``, a part of a batch, into binary ones; None for a threshold."""
        if self.binarize == "threshold":
            return None
        if self.binarize == "static":
            return draw_fixed_noise(Streams(0), f"static/{self.split}", index, self.source.shape)
        if not self.train:
            return draw_fixed_noise(self.streams, f"binarise/{self.split}", index, self.source.shape)
        generator = self.streams.generator("binarise", number, self.device)
        return draw_noise((self.batch_size, *self.source.shape), generator)[part]

    @cached_property
    def _binarized(self) -> ImageSource | None:
        """The images with noise that belongs to them, made binary once; None where each batch needs doing."""
        fixed = self.binarize in ("threshold", "static") or (self.binarize == "dynamic" and not self.train)
        if not (fixed and self.source.resident and self.augment is None):
            return None
        source, parts = self.source, []
        for index in torch.arange(len(source), device=source.device).split(256):
            raw = source.gather(index)
            x = raw / 255 if raw.dtype == torch.uint8 else raw
            parts.append((binarize(x, self._noise(0, slice(0), index)) * 255).to(torch.uint8))
        return TensorImages(torch.cat(parts), source.labels, source.class_names)


class _Reader(Dataset[tuple[Tensor, Tensor] | DataError]):
    """Reads a whole batch in a worker."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor] | DataError:
        try:
            return index, self.source.gather(index)
        except DataError as error:  # handed over as a value: raised here, it would reach the user wrapped in a traceback
            return error


def _check(
    source: ImageSource, *, batch_size: int, binarize: Binarize, augment: AugmentSpec | None, train: bool, world_size: int
) -> None:
    """Refuse what cannot work, before any work."""
    if batch_size < 1 or (train and batch_size > len(source)):
        raise UsageError(
            "the batch size does not fit the data",
            given=f"batch size {batch_size}, {len(source)} images",
            expected=f"between 1 and {len(source)}",
        )
    if train and batch_size % world_size:
        raise UsageError(
            "the batch cannot be shared equally",
            given=f"batch size {batch_size}, {world_size} processes",
            expected=f"a multiple of {world_size}",
        )
    if augment is not None and augment.saturation and source.shape[0] != 3:
        raise UsageError(
            "saturation has no meaning on images without colour",
            given=f"{source.shape[0]} channel(s)",
            expected="3",
            remedy="leave saturation at 0",
        )
    recolours = augment is not None and augment.recolours
    if binarize != "none" or recolours:
        low, high = source.value_range()
        if low < 0 or high > 1:
            raise DataError(
                "changes of colour and binarisation need pixels in [0, 1]",
                given=f"values from {low:g} to {high:g}",
                remedy="scale the data, or switch binarize and colour augmentation off",
            )
