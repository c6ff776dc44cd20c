"""Where examples are stored, images or others: in memory on the device, or in files that are read when needed."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import torch

from vaekit.data.facts import Facts
from vaekit.data.pixels import UNIT, Range
from vaekit.errors import DataError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from vaekit.data.specs import Missing


class ImageSource(ABC):
    """Examples of one shape, images or others, read by index, with their labels if they have any. NaN is a missing number."""

    shape: tuple[int, ...]
    """The shape of an example: ``(C, H, W)`` for images."""
    labels: Tensor | None
    """int64 ``(N,)``, on ``device``."""
    class_names: tuple[str, ...] | None
    """The name of each label."""
    integer: bool
    """Whether pixels are bytes, where 0..255 stands for [0, 1]; otherwise they are float32, whose values are kept."""
    encoded: bool = False
    """Whether ``gather`` decodes images, which takes processor time; otherwise it copies numbers."""
    resident: bool = False
    """Whether all images are in the memory of ``device``; otherwise ``gather`` reads files."""
    device: torch.device = torch.device("cpu")

    @property
    def names(self) -> Sequence[str] | None:
        """The file of each example; None if they are not in files of their own."""
        return None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def gather(self, index: Tensor) -> Tensor:
        """Return the examples at ``index``, ``(B, *shape)``, uint8 or float32; both are on ``device``."""

    @abstractmethod
    def subset(self, index: Tensor) -> Self:
        """Return a source of only the images at ``index``."""

    def to(self, device: torch.device | str) -> ImageSource:
        """Return the source on ``device``; a source that reads files returns itself."""
        return self

    def value_range(self) -> Range:
        """Return bounds on the scaled pixels: [0, 1] for bytes, the exact extremes for floats, missing ones left out."""
        if self.integer:
            return UNIT
        ranges = [_extremes(self.gather(chunk)) for chunk in torch.arange(len(self), device=self.device).split(256)]
        return min(low for low, _ in ranges), max(high for _, high in ranges)

    @property
    def has_missing(self) -> bool:
        """Whether a number is missing; True if finding out would mean reading files."""
        return False

    def complete(self, name: str) -> Self:
        """Return a source without missing numbers, called ``name`` in errors.

        Raises:
            DataError: A number is missing.
        """
        del name
        return self

    def fingerprint(self) -> dict[str, Any]:
        """Return plain data that identify the images: their number, shape and class names, digests of labels and images."""
        return {
            "num_images": len(self),
            "shape": list(self.shape),
            "class_names": None if self.class_names is None else list(self.class_names),
            "labels": None if self.labels is None else digest_of([self.labels]),
            "images": self.digest(),
        }

    def digest(self) -> str:
        """Return a digest of the images; by default of the pixels of a sample, since reading all of them may take long."""
        return digest_of([self.gather(sample_of(len(self)).to(self.device))])

    @property
    def is_binary(self) -> bool:
        """Whether every pixel is known to be 0 or 1; False if finding out would mean reading files."""
        return False


def _extremes(values: Tensor) -> Range:
    """Return the lowest and the highest number; ``(inf, -inf)`` if all are missing."""
    low, high = float(values.min()), float(values.max())
    if math.isnan(low):
        known = values[~values.isnan()]
        return (float(known.min()), float(known.max())) if len(known) else (math.inf, -math.inf)
    return low, high


def refuse_missing(values: Tensor, name: object) -> None:
    """Check that no number is missing.

    Raises:
        DataError: One is; the message counts them.
    """
    if num := int(values.isnan().sum()):
        raise DataError(
            "numbers are missing from the data",
            given=f"{name}: {num:,} of {values.numel():,} numbers are NaN",
            expected="numbers that are finite",
            remedy="leave them out of the likelihood: --missing zeros, or --missing channel to show the encoder which ones are",
        )


MOST_CLASSES = 100_000
"""The number above which labels without names are taken for numbers that name no classes."""
SAMPLE = 256
"""Number of images whose content is hashed if hashing all of them would mean reading large files."""


def sample_of(num: int, most: int = SAMPLE) -> Tensor:
    """Return ``most`` integers spread evenly from 0 to ``num - 1``; all of them if ``num`` is smaller."""
    return torch.linspace(0, max(num - 1, 0), min(num, most), dtype=torch.float64).round().long()


def digest_of(tensors: Iterable[Tensor]) -> str:
    """Return a digest of the numbers in tensors."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class TensorImages(ImageSource):
    """Examples in memory, images or others.

    Args:
        images: ``(N, F)``, ``(N, C, L)``, ``(N, C, H, W)`` or ``(N, C, D, H, W)``, uint8 or float32.
        labels: int64 ``(N,)``.
        class_names: The name of each label.
        names: The file of each example, if they come from files of their own.

    Raises:
        DataError: ``images`` has another shape or type, or a different length from ``labels``.

    Example:
        >>> source = TensorImages(torch.zeros(10, 1, 28, 28, dtype=torch.uint8), torch.arange(10))
        >>> source.gather(torch.tensor([0, 3])).shape
        torch.Size([2, 1, 28, 28])
    """

    resident = True

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        class_names: tuple[str, ...] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        if not 2 <= images.ndim <= 5 or images.dtype not in (torch.uint8, torch.float32):
            raise DataError(
                "the tensor does not hold examples",
                given=f"a tensor of shape {tuple(images.shape)} and type {images.dtype}",
                expected="shape (N, F), (N, C, L), (N, C, H, W) or (N, C, D, H, W), torch.uint8 or torch.float32",
            )
        if labels is not None and labels.shape != images.shape[:1]:
            raise DataError("labels and images differ in number", given=f"{tuple(labels.shape)}", expected=f"({len(images)},)")
        self.images = images.contiguous()
        self.labels = None if labels is None else labels.to(images.device, torch.int64)
        self.class_names, self._names = class_names, names
        self.shape = tuple(images.shape[1:])
        self.integer = images.dtype == torch.uint8
        self.device = images.device
        self._range: Range | None = None
        self._binary: bool | None = None
        self._moved: dict[torch.device, TensorImages] = {}

    @property
    def names(self) -> Sequence[str] | None:
        return self._names

    def __len__(self) -> int:
        return len(self.images)

    def gather(self, index: Tensor) -> Tensor:
        return self.images.index_select(0, index)

    def subset(self, index: Tensor) -> Self:
        labels = None if self.labels is None else self.labels[index]
        names = None if self.names is None else [self.names[row] for row in index.tolist()]
        return type(self)(self.images[index], labels, self.class_names, names)

    def to(self, device: torch.device | str) -> TensorImages:
        device = torch.device(device)
        if device.type == "cpu" == self.device.type:
            return self
        if device not in self._moved:  # once, since the models of a sweep share the images on the device
            self._moved[device] = TensorImages(self.images.to(device), self.labels, self.class_names, self.names)
        return self._moved[device]

    def value_range(self) -> Range:
        if self._range is None:
            self._range = super().value_range() if len(self) else (0.0, 0.0)
        return self._range

    def digest(self) -> str:
        """Return a digest of all images."""
        return digest_of(self.images.split(1024))

    @property
    def is_binary(self) -> bool:
        if self._binary is None:
            one = 255 if self.integer else 1
            self._binary = all(bool(((c == 0) | (c == one) | c.isnan()).all()) for c in self.images.split(1024))
        return self._binary

    @cached_property
    def has_missing(self) -> bool:
        return not self.integer and any(bool(c.isnan().any()) for c in self.images.split(1024))

    def complete(self, name: str) -> Self:
        if self.has_missing:
            refuse_missing(self.images, name)
        return self


@dataclass(frozen=True)
class Splits:
    """The parts of a dataset; no example is in more than one.

    Args:
        train: The examples to train on.
        validation: Those to choose models by.
        test: Those of the final numbers.
        missing: How missing numbers, NaN, are handled.

    Raises:
        DataError: The parts have examples of different shapes.
    """

    train: ImageSource
    validation: ImageSource
    test: ImageSource
    missing: Missing = field(default="refuse", kw_only=True)

    def __post_init__(self) -> None:
        if len({part.shape for part in self.parts.values()}) > 1:
            given = ", ".join(f"{name} {part.shape}" for name, part in self.parts.items())
            raise DataError("the splits have examples of different shapes", given=given, expected="one shape")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an example."""
        return self.train.shape

    def with_missing(self, missing: Missing) -> Splits:
        """Return the splits with another treatment of missing numbers.

        Raises:
            DataError: They are refused, and there are some.
        """
        if missing != "refuse":
            return replace(self, missing=missing)
        return Splits(*(part.complete(f"the {name} split") for name, part in self.parts.items()))

    @cached_property
    def value_range(self) -> Range:
        """The lowest and highest scaled pixels of all splits; [0, 1] if all lie within it."""
        ranges = [part.value_range() for part in self.parts.values()]
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        return UNIT if low >= 0 and high <= 1 else (low, high if high > low else low + 1.0)

    @cached_property
    def facts(self) -> Facts:
        """What a model must know about the data."""
        names = self._class_names()
        return Facts(data_shape=self.shape, value_range=self.value_range, class_names=names, missing=self.missing)

    def _class_names(self) -> tuple[str, ...] | None:
        if self.train.labels is None or self.train.class_names is not None:
            return self.train.class_names
        labels = [part.labels for part in self.parts.values() if part.labels is not None and len(part)]
        least, most = min(int(each.min()) for each in labels), max(int(each.max()) for each in labels)
        return tuple(map(str, range(most + 1))) if least >= 0 and most < MOST_CLASSES else None

    @property
    def parts(self) -> dict[str, ImageSource]:
        """The splits by name: ``train``, ``validation`` and ``test``."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @cached_property
    def fingerprint(self) -> dict[str, dict[str, Any]]:
        """Plain data that identify the images of each split, so that a changed dataset is noticed.

        Images in memory are hashed completely. Of image files, all names and sizes are hashed, and the content of 256 files
        spread over the split; of other files, the pixels of such a sample. So a changed number, order, name, size or label is
        always noticed, while a change within single images of a large dataset may not be.

        Example:
            >>> splits = vaekit.datasets.get("digits")().load()
            >>> splits.fingerprint["test"]["num_images"]
            1000
        """
        return {name: part.fingerprint() for name, part in self.parts.items()}


SPLIT_NAMES = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test", "testing")}
"""The names that datasets give to each split."""


def split_of(name: str) -> str | None:
    """Return the split that a name stands for, or None."""
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None)


def chosen_splits(found: Collection[str], validation: float | None, test: float | None) -> list[str]:
    """Return which splits of a dataset are used: the training split, and the others for which no fraction is given."""
    unused = {name for name, fraction in (("validation", validation), ("test", test)) if fraction is not None}
    return [name for name in SPLIT_NAMES if name in found and name not in unused]


def with_own_splits(own: Mapping[str, ImageSource], validation: float | None, test: float | None) -> Splits:
    """Split images, keeping the splits that the dataset has of its own; a fraction is held out of the training images.

    Args:
        own: The dataset's own splits by name.
        validation: Fraction to hold out for choosing models; default: the own split, else a tenth.
        test: Fraction to hold out for the final numbers; default: the own split, else a tenth.

    Raises:
        UsageError: The fractions leave a split without images.
        DataError: There are too few images, or the splits differ in shape.
    """

    def part(name: str, fraction: float | None) -> float | ImageSource:
        return fraction if fraction is not None else own.get(name, 0.1)

    return split_source(own["train"], part("validation", validation), part("test", test))


def split_source(source: ImageSource, validation: float | ImageSource, test: float | ImageSource) -> Splits:
    """Split images by a fixed permutation: the same for all runs and seeds, with the same fraction of every class.

    Args:
        source: All images, except those of a split that already exists.
        validation: Fraction to hold out for choosing models, or the split itself.
        test: Fraction to hold out for the final numbers, or the split itself.

    Raises:
        UsageError: The fractions leave a split without images.
        DataError: There are too few images.

    Example:
        >>> splits = split_source(TensorImages(torch.rand(50, 1, 28, 28)), validation=0.1, test=0.2)
        >>> {name: len(part) for name, part in splits.parts.items()}
        {'train': 35, 'validation': 5, 'test': 10}
    """
    fractions = [part for part in (validation, test) if not isinstance(part, ImageSource)]
    if not all(fraction > 0 for fraction in fractions) or sum(fractions) >= 1:
        raise UsageError(
            "the fractions of validation and test images leave a split without images",
            given=", ".join(map(str, fractions)),
            expected="fractions above 0 whose sum is below 1",
        )
    counts = [max(1, round(len(source) * fraction)) for fraction in fractions]
    num_train = len(source) - sum(counts)
    if num_train < 1:
        raise DataError(
            "too few images to split into train, validation and test", given=f"{len(source)} images", expected="at least 3"
        )
    order = _spread_order(len(source), source.labels)
    train, *held_out = (source.subset(part.sort().values) for part in order.split([num_train, *counts]))
    return Splits(train, *(part if isinstance(part, ImageSource) else held_out.pop(0) for part in (validation, test)))


def _spread_order(num: int, labels: Tensor | None) -> Tensor:
    """Return a fixed random order of images in which each class, if there are labels, is spread evenly."""
    order = torch.randperm(num, generator=torch.Generator().manual_seed(0))
    if labels is None:
        return order
    _, group, counts = labels[order].unique(return_inverse=True, return_counts=True)
    place = torch.empty(num, dtype=torch.float64)  # the position of each image within its class
    place[group.argsort(stable=True)] = torch.cat([torch.arange(count, dtype=torch.float64) for count in counts.tolist()])
    return order[((place + 0.5) / counts[group]).argsort(stable=True)]


def hold_out(train: ImageSource, test: ImageSource, validation: int) -> Splits:
    """Hold out the last ``validation`` training images; the test split already exists.

    Raises:
        UsageError: ``validation`` is not between 1 and the number of training images minus 1.
    """
    if not 0 < validation < len(train):
        raise UsageError(
            "this number of validation images cannot be held out", given=validation, expected=f"between 1 and {len(train) - 1}"
        )
    index = torch.arange(len(train), device=train.device)
    return Splits(train.subset(index[:-validation]), train.subset(index[-validation:]), test)
