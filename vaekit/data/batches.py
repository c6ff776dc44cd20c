"""Batches of examples, gathered, scaled, augmented and binarised in tensors on the device."""

from __future__ import annotations

import gc
import itertools
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vaekit.compute.graphs import Replay
from vaekit.data.augment import NUM_DRAWS, augment
from vaekit.data.binarize import binarize, draw_fixed_noise, draw_noise
from vaekit.data.pixels import Array
from vaekit.data.sources import TensorImages
from vaekit.errors import DataError, UsageError
from vaekit.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vaekit.data.sources import ImageSource
    from vaekit.data.specs import AugmentSpec, Binarize


Drawn = TypeVar("Drawn", Tensor, Tensor | None)


@dataclass(frozen=True, slots=True)
class Batch:
    """The images of one step."""

    x: Tensor
    """``(B, *shape)``, float32, bytes scaled to [0, 1]: what the likelihood scores."""
    inputs: Tensor
    """What the encoder sees: the same tensor as ``x``, unless the target of augmentation is the original."""
    y: Tensor | None
    """Labels, int64 ``(B,)``; None if the dataset has none."""
    index: Tensor
    """Positions in the source, int64 ``(B,)``."""
    whole: int | None = None
    """Number of images in the batch over all ranks; default: the number here."""
    offset: int = 0
    """Position of this rank's first image among those."""
    step: int = 0
    """Number of the batch within its epoch."""

    def share(self, draw: Callable[[int], Drawn]) -> Drawn:
        """Return this rank's part of ``draw(size of the whole batch)``, so that any number of ranks sees the same draws.

        What draws nothing returns None.
        """
        size = len(self.x)
        if self.whole is None or self.whole == size:
            return draw(size)
        drawn = draw(self.whole)
        return None if drawn is None else drawn[self.offset : self.offset + size]


def full_batches(num_images: int, batch_size: int) -> int:
    """Return the number of batches in an epoch of training, which drops the last batch if it is short."""
    return num_images // batch_size


@dataclass(frozen=True)
class Order:
    """Which images each step takes: a function of (seed, epoch, step), so an epoch can be resumed at any step.

    Args:
        streams: The run's random streams, of which "order" is used.
        size: Number of images.
        batch_size: Size of a batch over all ranks.
        train: Whether each epoch has its own order and drops a short last batch.
        rank: Which part of each batch to take.
        world_size: Number of parts.
        in_turn: Take every ``world_size``-th batch as a whole, instead of a part of each.
    """

    streams: Streams
    size: int
    batch_size: int
    train: bool = True
    rank: int = 0
    world_size: int = 1
    in_turn: bool = False

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in an epoch."""
        return full_batches(self.size if self.train else self.size + self.batch_size - 1, self.batch_size)

    def steps(self, start: int) -> range:
        """Return the steps of an epoch that this rank takes, beginning at ``start``."""
        steps = range(start, self.steps_per_epoch)
        return steps[self.rank :: self.world_size] if self.in_turn else steps

    def span(self, step: int) -> slice:
        """Return which slice of the epoch's order the step takes."""
        low = step * self.batch_size
        size = min(self.batch_size, self.size - low)
        if self.in_turn:
            return slice(low, low + size)
        return slice(low + size * self.rank // self.world_size, low + size * (self.rank + 1) // self.world_size)

    def parts(self, epoch: int, start: int, device: torch.device) -> Iterator[Tensor]:
        """Yield the indices of each step, beginning at ``start`` of ``epoch`` and continuing endlessly with later epochs."""
        for number in itertools.count(epoch):
            order = self._whole(number).to(device)
            for step in self.steps(start):
                yield order[self.span(step)]
            start = 0

    def _whole(self, epoch: int) -> Tensor:
        if not self.train:
            return torch.arange(self.size)
        return torch.randperm(self.size, generator=self.streams.generator("order", epoch))


class Batches:
    """The batches of a split, epoch by epoch; a batch depends on (seed, epoch, step) only, not on earlier batches.

    Training visits the images in a different order every epoch, and drops a short last batch. Evaluation visits all images in
    sequence, without augmentation. Dynamic binarisation draws new noise at every training step. In evaluation, and in training
    with static binarisation, the noise depends on the image and the split only: runs of all seeds share one binary dataset, for
    any batch size, device and number of ranks.

    Args:
        source: The images of one split.
        batch_size: Size of a batch over all ranks.
        streams: The run's random streams, of which "order", "augment" and "binarise" are used.
        binarize: How grey values become 0 or 1.
        augment: Random changes of the images in training.
        device: Where the batches are made; a source in memory is moved there.
        train: Whether the batches are for training or for evaluation.
        split: Name of the split.
        rank: Which part of each batch to yield. Noise is drawn for the whole batch, so the parts of all ranks make up the batch
            of a single process.
        world_size: Number of parts. In the last evaluation batch, a part may have fewer images than others, or none.
        in_turn: Yield every ``world_size``-th batch as a whole, instead of a part of each; for statistics of a batch in
            evaluation.
        workers: Processes that decode a source outside memory; 0 reads in this thread. A source of numbers needs no decoding: a
            thread reads it ahead.
        memory_format: Memory format of images; signals, volumes and tables are contiguous.
        replays: Whether to record augmentation as a CUDA graph and replay it.

    Raises:
        UsageError: The settings do not fit each other or the images.
        DataError: The images cannot be binarised.

    Example:
        >>> source = TensorImages(torch.rand(50, 1, 28, 28))
        >>> batches = Batches(source, batch_size=16, streams=Streams(seed=0), binarize="dynamic")
        >>> [batch.x.unique().tolist() for batch in batches.epoch(0)]
        [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
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
        replays: bool = False,
    ) -> None:
        self.batch_size, self.streams, self.binarize, self.train, self.split = batch_size, streams, binarize, train, split
        self.augment = augment if augment is not None and train and not augment.is_off else None
        self.device, self.workers = torch.device(device), workers
        self.memory_format = memory_format if len(source.shape) == 3 else torch.contiguous_format
        self._replay = Replay(partial(_augmented, self.augment)) if replays and self.augment is not None else None
        _check(source, batch_size=batch_size, binarize=binarize, augment=self.augment, train=train, world_size=world_size)
        self.source = source.to(self.device)
        self.order = Order(streams, len(source), batch_size, train=train, rank=rank, world_size=world_size, in_turn=in_turn)
        self.steps_per_epoch = self.order.steps_per_epoch
        self._ahead: tuple[tuple[int, int], Iterator[tuple[Tensor, Tensor]]] | None = None

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch.

        Args:
            epoch: Counted from 0.
            start: First step within the epoch, to resume an interrupted one.
        """
        source = self.source if self._binarized is None else self._binarized
        position, read = self._ahead or (None, None)
        self._ahead = None
        if read is None or position != (epoch, start):
            parts = self.order.parts(epoch, start, source.device)
            read = _read(source, parts, self.workers, pin=self.device.type == "cuda")
        for step in self.order.steps(start):
            index, raw = next(read)
            y = None if source.labels is None else source.labels.index_select(0, index)
            yield self._finish(epoch * self.steps_per_epoch + step, step, index, raw, y)
        self._ahead = (epoch + 1 if self.train else epoch, 0), read

    def fixed(self, index: Tensor) -> Tensor:
        """Return the examples at ``index`` as every evaluation sees them, ``(N, *shape)``: the noise belongs to the example."""
        raw = self.source.gather(index)
        x = raw / 255 if raw.dtype == torch.uint8 else raw
        return x if self.binarize == "none" else self._binary(x, self._noise(0, slice(0), index))

    def _move(self, *tensors: Tensor) -> list[Tensor]:
        """Copy tensors to the device; a GPU does so while it is still computing the previous step."""
        if self._copies is None:
            return [tensor.to(self.device) for tensor in tensors]
        with torch.cuda.stream(self._copies):
            moved = [tensor.to(self.device, non_blocking=True) for tensor in tensors]
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._copies)
        for tensor in moved:
            tensor.record_stream(current)  # or its memory could be reused for the next copy before this stream has read it
        return moved

    @cached_property
    def _copies(self) -> torch.cuda.Stream | None:
        return torch.cuda.Stream(self.device) if self.device.type == "cuda" and not self.source.resident else None

    def _finish(self, number: int, step: int, index: Tensor, raw: Tensor, y: Tensor | None) -> Batch:
        """Make a batch from raw images; ``number`` counts the steps of the run, ``step`` those of the epoch."""
        low, span = step * self.batch_size, self.order.span(step)
        whole, part = min(self.batch_size, len(self.source) - low), slice(span.start - low, span.stop - low)
        draws_noise = self.binarize != "none" and self._binarized is None
        noise = self._noise(number, part, index) if draws_noise else None  # before the indices are moved
        raw, index, *rest = self._move(raw, index) if y is None else self._move(raw, index, y)
        y = rest[0] if rest else None
        x = raw / 255 if raw.dtype == torch.uint8 else raw
        inputs = x
        if self.augment is not None:
            generator = self.streams.generator("augment", number, self.device)
            draws = torch.rand(whole, NUM_DRAWS, generator=generator, device=self.device)
            inputs = augment(x, self.augment, draws[part]) if self._replay is None else self._replay(x, draws[part]).clone()
            if self.augment.target == "augmented":
                x = inputs
        if draws_noise:
            shared = inputs is x
            x = self._binary(x, noise)
            inputs = x if shared else self._binary(inputs, noise)
        shared, x = inputs is x, x.contiguous(memory_format=self.memory_format)
        inputs = x if shared else inputs.contiguous(memory_format=self.memory_format)
        return Batch(x, inputs, y, index, whole, part.start, step)

    def _binary(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """Binarise examples; missing numbers stay missing."""
        binary = binarize(x, noise)
        return torch.where(x.isnan(), x, binary) if self.source.has_missing else binary

    def _noise(self, number: int, part: slice, index: Tensor) -> Tensor | None:
        """Return the noise that binarises the images at ``index``, a part of a batch; None for a threshold."""
        if self.binarize == "threshold":
            return None
        if self.binarize == "static" or not self.train:
            return draw_fixed_noise(Streams(0), f"static/{self.split}", index, self.source.shape).to(self.device)
        generator = self.streams.generator("binarise", number, self.device)
        return draw_noise((self.batch_size, *self.source.shape), generator)[part]

    @cached_property
    def _binarized(self) -> ImageSource | None:
        """The source with all images binarised once; None if each batch must be binarised separately."""
        fixed = self.binarize in ("threshold", "static") or (self.binarize == "dynamic" and not self.train)
        if not (fixed and self.source.resident and self.augment is None) or self.source.has_missing:
            return None
        source = self.source
        chunks = torch.arange(len(source), device=source.device).split(256)
        parts = [(self.fixed(chunk) * 255).to(torch.uint8) for chunk in chunks]
        return TensorImages(torch.cat(parts), source.labels, source.class_names)


def _augmented(spec: AugmentSpec, x: Tensor, draws: Tensor) -> Tensor:
    return augment(x, spec, draws)


def _read(source: ImageSource, parts: Iterator[Tensor], workers: int, *, pin: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the indices and images of each part, reading ahead if there are workers."""
    if workers == 0 or source.resident:
        return ((index, source.gather(index)) for index in parts)
    return (_by_processes if source.encoded else _by_thread)(source, parts, workers, pin)


def _by_processes(source: ImageSource, parts: Iterator[Tensor], workers: int, pin: bool) -> Iterator[tuple[Tensor, Tensor]]:
    asked: deque[Tensor] = deque()

    def ask() -> Iterator[Array]:  # arrays are sent by value; each tensor would take shared memory and a socket
        for part in parts:
            asked.append(part)
            yield part.numpy()

    loader = DataLoader(
        _Reader(source),
        batch_size=None,
        sampler=ask(),
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_freeze_inherited_objects,
        generator=torch.Generator(),  # by default it seeds its workers from the global generator, which dropout uses
    )
    for raw in loader:
        if isinstance(raw, DataError):
            raise raw
        yield asked.popleft(), raw


def _by_thread(source: ImageSource, parts: Iterator[Tensor], _workers: int, pin: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Read ahead in a thread: numbers need no decoding, and sending them between processes would take longer than reading."""

    def gather(part: Tensor) -> Tensor:
        raw = source.gather(part)
        return raw.pin_memory() if pin else raw

    with ThreadPoolExecutor(1) as pool:
        ahead: deque[tuple[Tensor, Future[Tensor]]] = deque()
        for part in parts:
            ahead.append((part, pool.submit(gather, part)))
            if len(ahead) > 2:
                index, raw = ahead.popleft()
                yield index, raw.result()


def _freeze_inherited_objects(_: int) -> None:
    """Keep the garbage collector away from what a worker inherits: it would copy pages, and end the parent's other loaders."""
    gc.freeze()


class _Reader(Dataset[Tensor | DataError]):
    """Reads a whole batch in a worker."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def __getitem__(self, index: Array) -> Tensor | DataError:
        try:
            return self.source.gather(torch.from_numpy(index))
        except DataError as error:  # returned as a value: if raised here, it would reach the user wrapped in a traceback
            return error


def _check(
    source: ImageSource, *, batch_size: int, binarize: Binarize, augment: AugmentSpec | None, train: bool, world_size: int
) -> None:
    """Refuse settings that cannot work, before any work is done."""
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
    if augment is not None and len(source.shape) != 3:
        raise UsageError(
            "augmentation changes images only",
            given=f"data of shape {source.shape}",
            expected="images, of shape (channels, height, width)",
            remedy="switch augmentation off",
        )
    if augment is not None and augment.saturation and source.shape[0] != 3:
        raise UsageError(
            "saturation has no meaning for images without colour",
            given=f"{source.shape[0]} channel(s)",
            expected="3",
            remedy="set saturation to 0",
        )
    recolours = augment is not None and augment.recolours
    if binarize != "none" or recolours:
        low, high = source.value_range()
        if low < 0 or high > 1:
            raise DataError(
                "binarisation and colour augmentation need pixels in [0, 1]",
                given=f"values from {low:g} to {high:g}",
                remedy="state which numbers stand for black and white, for example --dataset.range -1,1, or switch off binarize "
                "and colour augmentation",
            )
