"""Batches of examples, gathered, scaled, augmented and binarised on the device."""

from __future__ import annotations

import gc
import itertools
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vaekit.data.augment import NUM_DRAWS, augment
from vaekit.data.binarize import binarize, draw_fixed_noise, draw_noise
from vaekit.data.pixels import Array
from vaekit.data.sources import TensorImages
from vaekit.errors import DataError, UsageError
from vaekit.streams import Drawn, JointStreams, Streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vaekit.data.sources import ImageSource
    from vaekit.data.specs import AugmentSpec, Binarize


@dataclass(frozen=True, slots=True)
class Batch:
    """The images of one step."""

    x: Tensor
    """The target of the likelihood, ``(B, *shape)``, float32; bytes are scaled to [0, 1]."""
    inputs: Tensor
    """The encoder's input: the same tensor as ``x`` unless the original images are the target of augmentation."""
    y: Tensor | None
    """Labels, int64 ``(B,)``; None for a dataset without labels."""
    index: Tensor
    """Positions in the source, int64 ``(B,)``."""
    whole: int | None = None
    """Batch size over all ranks; default: that of this rank."""
    offset: int = 0
    """Position of this rank's first image in the whole batch."""
    step: int = 0
    """Number of the batch within its epoch."""

    def share(self, draw: Callable[[int], Drawn]) -> Drawn:
        """Return this rank's part of ``draw(whole)``, so that draws do not depend on the number of ranks.

        None is passed through.
        """
        size = len(self.x)
        if self.whole is None or self.whole == size:
            return draw(size)
        drawn = draw(self.whole)
        return None if drawn is None else drawn[self.offset : self.offset + size]


class Reading(NamedTuple):
    """The input of `Batches.make`, on its device.

    Args:
        number: The step number within the run, which seeds the draws.
        step: The step number within the epoch.
        positions: Positions in the source, int64 ``(B,)``.
        images: The examples at these positions, as stored by the source; None if they are still to be gathered from memory.
        y: Their labels; None if there are none or they are still to be gathered.
        noise: The examples' fixed binarisation noise, or None.
    """

    number: int
    step: int
    positions: Tensor
    images: Tensor | None
    y: Tensor | None
    noise: Tensor | None


def full_batches(num_images: int, batch_size: int) -> int:
    """Return the number of training batches per epoch; an incomplete last batch is dropped."""
    return num_images // batch_size


@dataclass(frozen=True)
class Order:
    """The images of each step, as a function of (seed, epoch, step), so an epoch can be resumed at any step.

    Args:
        streams: The run's random streams; "order" is used. Those of several seeds give a step the images of each, one seed after
            another.
        size: Number of images.
        batch_size: Size of a batch over all ranks.
        train: Whether to shuffle every epoch and drop an incomplete last batch.
        rank: The part of each batch to take.
        world_size: Number of parts.
        whole_batches: Whether to take every ``world_size``-th batch as a whole instead of a part of each.
    """

    streams: Streams | JointStreams
    size: int
    batch_size: int
    train: bool = True
    rank: int = 0
    world_size: int = 1
    whole_batches: bool = False

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in an epoch."""
        return full_batches(self.size if self.train else self.size + self.batch_size - 1, self.batch_size)

    def steps(self, start: int) -> range:
        """Return the steps of an epoch that this rank takes, beginning at ``start``."""
        steps = range(start, self.steps_per_epoch)
        return steps[self.rank :: self.world_size] if self.whole_batches else steps

    def span(self, step: int) -> slice:
        """Return the step's slice of the epoch's order."""
        low = step * self.batch_size
        size = min(self.batch_size, self.size - low)
        if self.whole_batches:
            return slice(low, low + size)
        return slice(low + size * self.rank // self.world_size, low + size * (self.rank + 1) // self.world_size)

    def parts(self, epoch: int, start: int, device: torch.device) -> Iterator[Tensor]:
        """Yield the indices of each step, from step ``start`` of ``epoch`` on, endlessly."""
        for number in itertools.count(epoch):
            order = self._whole(number).to(device).view(-1, self.size)  # one row per seed
            for step in self.steps(start):
                yield order[:, self.span(step)].flatten()
            start = 0

    def _whole(self, epoch: int) -> Tensor:
        if not self.train:
            return torch.arange(self.size)
        return self.streams.draw("order", epoch, self.streams.num_seeds * self.size, _permutation)


def _permutation(num: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(num, generator=generator)


class Batches:
    """The batches of a split, epoch by epoch; a batch depends only on (seed, epoch, step), not on earlier batches.

    Training shuffles the images every epoch and drops an incomplete last batch. Evaluation visits all images in order, without
    augmentation. Dynamic binarisation draws new noise at every training step. In evaluation, and in training with static
    binarisation, the noise depends only on the image and the split: all seeds share one binary dataset, for any batch size,
    device and number of ranks.

    Args:
        source: The images of one split.
        batch_size: Size of a batch over all ranks.
        streams: The run's random streams; "order", "augment" and "binarise" are used. With those of several seeds, a training
            batch consists of a batch of each, one seed after another: the images of all are gathered at once.
        binarize: The binarisation of grey values.
        augment: The augmentation of training images.
        device: The device of the batches; a source in memory is moved there.
        train: Whether the batches are for training or for evaluation.
        split: Name of the split.
        rank: The part of each batch to yield. Noise is drawn for the whole batch, so the parts of all ranks together equal the
            batch of a single process.
        world_size: Number of parts. In the last evaluation batch, some parts may have fewer images or none.
        whole_batches: Whether to yield every ``world_size``-th batch as a whole instead of a part of each; for batch statistics
            in evaluation.
        workers: Number of processes that decode images outside memory; with 0, this thread reads them. Numeric arrays need no
            decoding and are prefetched by a thread.
        memory_format: Memory format of images; signals, volumes and tables are contiguous.

    Raises:
        UsageError: The settings are incompatible with each other or with the images.
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
        streams: Streams | JointStreams,
        binarize: Binarize = "none",
        augment: AugmentSpec | None = None,
        device: torch.device | str = "cpu",
        train: bool = True,
        split: str = "train",
        rank: int = 0,
        world_size: int = 1,
        whole_batches: bool = False,
        workers: int = 0,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self.batch_size, self.streams, self.binarize, self.train, self.split = batch_size, streams, binarize, train, split
        self.augment = augment if augment is not None and train and not augment.is_off else None
        self.device, self.workers = torch.device(device), workers
        self.memory_format = memory_format if len(source.shape) == 3 else torch.contiguous_format
        _check(source, batch_size=batch_size, binarize=binarize, augment=self.augment, train=train, world_size=world_size)
        self.source = source.to(self.device)
        self.order = Order(
            streams, len(source), batch_size, train=train, rank=rank, world_size=world_size, whole_batches=whole_batches
        )
        self.steps_per_epoch = self.order.steps_per_epoch
        self._ahead: tuple[tuple[int, int], Iterator[tuple[Tensor, Tensor | None]]] | None = None

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch.

        Args:
            epoch: Counted from 0.
            start: First step within the epoch, to resume an interrupted one.
        """
        return map(self.make, self.readings(epoch, start))

    def readings(self, epoch: int, start: int = 0) -> Iterator[Reading]:
        """Yield the reading of each batch of an epoch; see `epoch`."""
        source, host = self._stored, torch.device("cpu")
        position, read = self._ahead or (None, None)
        self._ahead = None
        if read is None or position != (epoch, start):
            parts = self.order.parts(epoch, start, host if self._fixes_noise else source.device)
            read = _read(source, parts, self.workers, pin=self.device.type == "cuda")
        for step in self.order.steps(start):
            index, images = next(read)
            y = None if images is None or source.labels is None else source.labels.index_select(0, index)
            noise = self._fixed_noise(index) if self._fixes_noise else None
            yield Reading(epoch * self.steps_per_epoch + step, step, *self._move(index, images, y, noise))
        self._ahead = (epoch + 1 if self.train else epoch, 0), read

    def make(self, reading: Reading) -> Batch:
        """Make a batch, as a function of the tensors of a reading, its number and the streams."""
        number, step, index, images, y, noise = reading
        if images is None:
            images = self._stored.gather(index)
            y = None if self._stored.labels is None else self._stored.labels.index_select(0, index)
        low = step * self.batch_size
        whole = self.streams.num_seeds * min(self.batch_size, len(self.source) - low)
        offset = self.order.span(step).start - low
        part = slice(offset, offset + len(index))
        x = inputs = _scaled(images)
        if self.augment is not None:
            draws = self.streams.draw("augment", number, whole, self._draws, self.device)
            inputs = augment(x, self.augment, draws[part])
            if self.augment.target == "augmented":
                x = inputs
        if self.binarize != "none" and self._binarized is None:
            if self.binarize == "dynamic" and self.train:
                noise = self.streams.draw("binarise", number, whole, self._noise, self.device)[part]
            shared = inputs is x
            x = self._binary(x, noise)
            inputs = x if shared else self._binary(inputs, noise)
        shared, x = inputs is x, x.contiguous(memory_format=self.memory_format)
        inputs = x if shared else inputs.contiguous(memory_format=self.memory_format)
        return Batch(x, inputs, y, index, whole, offset, step)

    def fixed(self, index: Tensor) -> Tensor:
        """Return the examples at ``index`` as in evaluation, ``(N, *shape)``, with noise that is fixed per example."""
        x = _scaled(self.source.gather(index))
        noise = None if self.binarize in ("none", "threshold") else self._fixed_noise(index).to(x.device)
        return x if self.binarize == "none" else self._binary(x, noise)

    def _move(self, *tensors: Tensor | None) -> list[Any]:
        """Copy tensors to the device; on a GPU, the copy overlaps with the previous step."""
        if self._copies is None:
            return [None if tensor is None else tensor.to(self.device) for tensor in tensors]
        with torch.cuda.stream(self._copies):
            moved = [None if tensor is None else tensor.to(self.device, non_blocking=True) for tensor in tensors]
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._copies)
        for tensor in moved:
            if tensor is not None:
                tensor.record_stream(current)  # otherwise its memory could be reused before this stream has read it
        return moved

    @cached_property
    def _copies(self) -> torch.cuda.Stream | None:
        copies = self.device.type == "cuda" and (self._fixes_noise or not self.source.resident)
        return torch.cuda.Stream(self.device) if copies else None

    def _binary(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """Binarise examples; missing values stay missing."""
        binary = binarize(x, noise)
        return torch.where(x.isnan(), x, binary) if self.source.has_missing else binary

    @cached_property
    def _fixes_noise(self) -> bool:
        """Whether each batch needs noise that is fixed per example."""
        fixed = self.binarize == "static" or (self.binarize == "dynamic" and not self.train)
        return fixed and self._binarized is None

    def _draws(self, num: int, generator: torch.Generator) -> Tensor:
        """Draw the numbers of `augment` for ``num`` examples."""
        return torch.rand(num, NUM_DRAWS, generator=generator, device=self.device)

    def _noise(self, num: int, generator: torch.Generator) -> Tensor:
        """Draw the noise of dynamic binarisation for ``num`` examples."""
        return draw_noise((num, *self.source.shape), generator)

    def _fixed_noise(self, index: Tensor) -> Tensor:
        """Draw the fixed noise of the examples at ``index``, on the CPU."""
        return draw_fixed_noise(Streams(0), f"static/{self.split}", index, self.source.shape)

    @property
    def _stored(self) -> ImageSource:
        """The source from which batches are read."""
        return self.source if self._binarized is None else self._binarized

    @cached_property
    def _binarized(self) -> TensorImages | None:
        """The source with all images binarised in advance; None if each batch must be binarised separately."""
        source, fixed = self.source, self.binarize in ("threshold", "static") or (self.binarize == "dynamic" and not self.train)
        if not (fixed and isinstance(source, TensorImages) and self.augment is None) or source.has_missing:
            return None

        def make() -> TensorImages:
            chunks = torch.arange(len(source), device=source.device).split(256)
            parts = [(self.fixed(chunk) * 255).to(torch.uint8) for chunk in chunks]
            return TensorImages(torch.cat(parts), source.labels, source.class_names)

        return source.derived("threshold" if self.binarize == "threshold" else f"static/{self.split}", make)


def _scaled(images: Tensor) -> Tensor:
    """Scale bytes to [0, 1]; return floats unchanged."""
    return images / 255 if images.dtype == torch.uint8 else images


def _read(source: ImageSource, parts: Iterator[Tensor], workers: int, *, pin: bool) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield the indices and images of each part, prefetched if there are workers; no images if they are in memory."""
    if source.resident:
        return ((index, None) for index in parts)
    if workers == 0:
        return ((index, source.gather(index)) for index in parts)
    return (_by_processes if source.encoded else _by_thread)(source, parts, workers, pin)


def _by_processes(source: ImageSource, parts: Iterator[Tensor], workers: int, pin: bool) -> Iterator[tuple[Tensor, Tensor]]:
    asked: deque[Tensor] = deque()

    def ask() -> Iterator[Array]:  # arrays are sent by value; a tensor would take shared memory and a socket
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
        generator=torch.Generator(),  # by default, workers are seeded from the global generator, which dropout uses
    )
    for raw in loader:
        if isinstance(raw, DataError):
            raise raw
        yield asked.popleft(), raw


def _by_thread(source: ImageSource, parts: Iterator[Tensor], _workers: int, pin: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Prefetch in a thread: arrays need no decoding, and sending them between processes would take longer than reading."""

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
    """Exclude inherited objects from garbage collection, which would copy pages and end the parent's other loaders."""
    gc.freeze()


class _Reader(Dataset[Tensor | DataError]):
    """Reads a whole batch in a worker."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def __getitem__(self, index: Array) -> Tensor | DataError:
        try:
            return self.source.gather(torch.from_numpy(index))
        except DataError as error:  # returned as a value: if raised in a worker, it would be wrapped in a traceback
            return error


def _check(
    source: ImageSource, *, batch_size: int, binarize: Binarize, augment: AugmentSpec | None, train: bool, world_size: int
) -> None:
    """Check the settings before any work is done."""
    if batch_size < 1 or (train and batch_size > len(source)):
        raise UsageError(
            "invalid batch size for this dataset",
            given=f"batch size {batch_size}, {len(source)} images",
            expected=f"between 1 and {len(source)}",
        )
    if train and batch_size % world_size:
        raise UsageError(
            "the batch cannot be divided equally among processes",
            given=f"batch size {batch_size}, {world_size} processes",
            expected=f"a multiple of {world_size}",
        )
    if augment is not None and len(source.shape) != 3:
        raise UsageError(
            "augmentation works on images only",
            given=f"data of shape {source.shape}",
            expected="images, of shape (channels, height, width)",
            remedy="disable augmentation",
        )
    if augment is not None and augment.saturation and source.shape[0] != 3:
        raise UsageError(
            "saturation needs RGB images",
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
                remedy="set the values of black and white, for example --dataset.range -1,1, or disable binarisation "
                "and colour augmentation",
            )
