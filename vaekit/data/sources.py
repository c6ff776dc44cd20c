"""Sources of examples: in memory on the device, or in files that are read on demand."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from vaekit.data.facts import Facts
from vaekit.data.pixels import UNIT, Array, Range
from vaekit.errors import DataError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from vaekit.data.specs import Missing


class ImageSource(ABC):
    """Examples of one shape, read by index, with labels if there are any. NaN marks a missing value."""

    shape: tuple[int, ...]
    """The shape of an example: ``(C, H, W)`` for images."""
    labels: Tensor | None
    """int64 ``(N,)``, on ``device``."""
    class_names: tuple[str, ...] | None
    """The name of each label."""
    integer: bool
    """Whether pixels are bytes, where 0..255 represents [0, 1]; otherwise they are float32 and used as they are."""
    encoded: bool = False
    """Whether ``gather`` decodes images, which takes CPU time; otherwise it copies numbers."""
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
        """Return the examples at ``index``, ``(B, *shape)``, uint8 or float32; index and result are on ``device``."""

    @abstractmethod
    def subset(self, index: Tensor) -> Self:
        """Return a source with only the images at ``index``."""

    def to(self, device: torch.device | str) -> ImageSource:
        """Return the source on ``device``; a source that reads files returns itself."""
        return self

    def value_range(self) -> Range:
        """Return bounds of the scaled pixels: [0, 1] for bytes, the exact extremes for floats, ignoring missing values."""
        if self.integer:
            return UNIT
        size = max(1, CHUNK_NUMBERS // math.prod(self.shape))
        ranges = [_extremes(self.gather(chunk)) for chunk in torch.arange(len(self), device=self.device).split(size)]
        return min(low for low, _ in ranges), max(high for _, high in ranges)

    def places(self, rows: Tensor) -> dict[str, Array]:
        """Return the columns of a table that identify examples, each ``(B,)``.

        They are ``row``, and ``file``, ``label`` and ``class_name`` if the source has them; names that only repeat the numbers of
        the classes are omitted.

        Args:
            rows: The positions of the examples, int64 ``(B,)``.
        """
        columns: dict[str, Array] = {"row": rows.cpu().numpy()}
        if (names := self.names) is not None:
            columns["file"] = np.array([names[row] for row in rows.tolist()])
        if self.labels is not None:
            columns["label"] = self.labels[rows.to(self.labels.device)].cpu().numpy()
            if self.class_names is not None and self.class_names != tuple(map(str, range(len(self.class_names)))):
                columns["class_name"] = np.array(self.class_names)[columns["label"]]
        return columns

    @property
    def has_missing(self) -> bool:
        """Whether a value is missing; True if unknown without reading files."""
        return False

    def complete(self, name: str) -> Self:
        """Return a source without missing values; ``name`` is used in errors.

        Raises:
            DataError: A value is missing.
        """
        del name
        return self

    def fingerprint(self) -> dict[str, Any]:
        """Return plain data that identify the images: their number, shape and class names, and digests of labels and images."""
        return {
            "num_images": len(self),
            "shape": list(self.shape),
            "class_names": None if self.class_names is None else list(self.class_names),
            "labels": None if self.labels is None else digest_of([self.labels]),
            "images": self.digest(),
        }

    def digest(self) -> str:
        """Return a digest of the images; by default of a sample, since reading all of them may take long."""
        return digest_of([self.gather(sample_of(len(self)).to(self.device))])

    @property
    def is_binary(self) -> bool:
        """Whether every pixel is known to be 0 or 1; False if unknown without reading files."""
        return False


def _extremes(values: Tensor) -> Range:
    """Return the lowest and highest values; ``(inf, -inf)`` if all are missing."""
    low, high = float(values.min()), float(values.max())
    if math.isnan(low):
        known = values[~values.isnan()]
        return (float(known.min()), float(known.max())) if len(known) else (math.inf, -math.inf)
    return low, high


def require_complete(values: Tensor, name: object) -> None:
    """Check that no values are missing.

    Raises:
        DataError: Values are missing; the message counts them.
    """
    if num := int(values.isnan().sum()):
        raise DataError(
            "values are missing from the data",
            given=f"{name}: {num:,} of {values.numel():,} values are NaN",
            expected="finite values",
            remedy="exclude them from the likelihood: --missing zeros, or --missing channel to show the encoder where they are",
        )


MOST_CLASSES = 100_000
"""The maximum number of classes for labels without names."""
CHUNK_NUMBERS = 2**20
"""How many numbers are read at once where all of them are read."""
SAMPLE = 256
"""Number of images whose content is hashed if hashing all of them would require reading large files."""


def sample_of(num: int, most: int = SAMPLE) -> Tensor:
    """Return ``most`` integers spread evenly from 0 to ``num - 1``; all if ``num`` is smaller."""
    return torch.linspace(0, max(num - 1, 0), min(num, most), dtype=torch.float64).round().long()


def digest_of(tensors: Iterable[Tensor]) -> str:
    """Return a digest of the contents of tensors."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class TensorImages(ImageSource):
    """Examples in memory.

    Args:
        images: ``(N, F)``, ``(N, C, L)``, ``(N, C, H, W)`` or ``(N, C, D, H, W)``, uint8 or float32.
        labels: int64 ``(N,)``.
        class_names: The name of each label.
        names: The file of each example, if they come from files of their own.

    Raises:
        DataError: ``images`` has another shape or type, or its length differs from that of ``labels``.

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
                "the tensor cannot hold examples",
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
        self._derived: dict[Hashable, TensorImages] = {}

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
        return self.derived(device, lambda: TensorImages(self.images.to(device), self.labels, self.class_names, self.names))

    def derived(self, key: Hashable, make: Callable[[], TensorImages]) -> TensorImages:
        """Return the result of ``make``, which is called at the first request for a key: the models of a sweep share it."""
        if key not in self._derived:
            self._derived[key] = make()
        return self._derived[key]

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
            require_complete(self.images, name)
        return self


@dataclass(frozen=True)
class Splits:
    """The disjoint splits of a dataset.

    Args:
        train: The examples to train on.
        validation: The examples for model selection.
        test: The examples for the final evaluation.
        missing: How missing values (NaN) are handled.

    Raises:
        DataError: The splits have examples of different shapes.
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
        """Return the splits with a different treatment of missing values.

        Raises:
            DataError: Missing values are not allowed, but present.
        """
        if missing != "refuse":
            return replace(self, missing=missing)
        return Splits(*(part.complete(f"the {name} split") for name, part in self.parts.items()))

    @cached_property
    def value_range(self) -> Range:
        """The lowest and highest scaled pixels of all splits; [0, 1] if all lie within that range."""
        ranges = [part.value_range() for part in self.parts.values()]
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        return UNIT if low >= 0 and high <= 1 else (low, high if high > low else low + 1.0)

    @cached_property
    def facts(self) -> Facts:
        """Facts about the data that a model depends on."""
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
        """Plain data that identify the images of each split, to detect changes of the dataset.

        Images in memory are hashed completely. For image files, all names and sizes are hashed, and the contents of 256 files
        spread over the split; for other files, the pixels of such a sample. A changed number, order, name, size or label is
        therefore always detected, while a change in individual images of a large dataset may not be.

        Example:
            >>> splits = vaekit.datasets.get("digits")().load()
            >>> splits.fingerprint["test"]["num_images"]
            1000
        """
        return {name: part.fingerprint() for name, part in self.parts.items()}


SPLIT_NAMES = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test", "testing")}
"""Common names of each split."""


def split_of(name: str) -> str | None:
    """Return the split to which a name refers, or None."""
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None)


def chosen_splits(found: Collection[str], validation: float | None, test: float | None) -> list[str]:
    """Return the splits of a dataset to use: the training split, and the others for which no fraction is given."""
    unused = {name for name, fraction in (("validation", validation), ("test", test)) if fraction is not None}
    return [name for name in SPLIT_NAMES if name in found and name not in unused]


def with_own_splits(own: Mapping[str, ImageSource], validation: float | None, test: float | None) -> Splits:
    """Split images, keeping the dataset's own splits; missing ones are held out from the training images.

    Args:
        own: The dataset's own splits by name.
        validation: Fraction to hold out for model selection; default: the dataset's own split, else 0.1.
        test: Fraction to hold out for the final evaluation; default: the dataset's own split, else 0.1.

    Raises:
        UsageError: The fractions leave a split empty.
        DataError: There are too few images, or the splits have different shapes.
    """

    def part(name: str, fraction: float | None) -> float | ImageSource:
        return fraction if fraction is not None else own.get(name, 0.1)

    return split_source(own["train"], part("validation", validation), part("test", test))


def split_source(source: ImageSource, validation: float | ImageSource, test: float | ImageSource) -> Splits:
    """Split images by a fixed permutation, independent of the seed and stratified by class.

    Args:
        source: All images except those of existing splits.
        validation: Fraction to hold out for model selection, or the existing split.
        test: Fraction to hold out for the final evaluation, or the existing split.

    Raises:
        UsageError: The fractions leave a split empty.
        DataError: There are too few images.

    Example:
        >>> splits = split_source(TensorImages(torch.rand(50, 1, 28, 28)), validation=0.1, test=0.2)
        >>> {name: len(part) for name, part in splits.parts.items()}
        {'train': 35, 'validation': 5, 'test': 10}
    """
    fractions = [part for part in (validation, test) if not isinstance(part, ImageSource)]
    if not all(fraction > 0 for fraction in fractions) or sum(fractions) >= 1:
        raise UsageError(
            "the validation and test fractions leave a split empty",
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
    train, *held_out = (source.subset(_ascending(part, len(source))) for part in order.split([num_train, *counts]))
    return Splits(train, *(part if isinstance(part, ImageSource) else held_out.pop(0) for part in (validation, test)))


def _ascending(rows: Tensor, num: int) -> Tensor:
    """Return different integers below ``num`` in order, without sorting them."""
    chosen = torch.zeros(num, dtype=torch.bool)
    chosen[rows] = True
    return chosen.nonzero().squeeze(1)


def _spread_order(num: int, labels: Tensor | None) -> Tensor:
    """Return a fixed random order of images in which each class, if any, is spread evenly."""
    order = torch.randperm(num, generator=torch.Generator().manual_seed(0))
    if labels is None:
        return order
    _, group, counts = labels[order].unique(return_inverse=True, return_counts=True)
    place = torch.empty(num, dtype=torch.float64)  # the position of each image within its class
    place[group.argsort(stable=True)] = torch.cat([torch.arange(count, dtype=torch.float64) for count in counts.tolist()])
    return order[((place + 0.5) / counts[group]).argsort(stable=True)]


def hold_out(train: ImageSource, test: ImageSource, validation: int) -> Splits:
    """Hold out the last ``validation`` training images; the test split exists.

    Raises:
        UsageError: ``validation`` is not between 1 and the number of training images minus 1.
    """
    if not 0 < validation < len(train):
        raise UsageError("invalid number of validation images", given=validation, expected=f"between 1 and {len(train) - 1}")
    index = torch.arange(len(train), device=train.device)
    return Splits(train.subset(index[:-validation]), train.subset(index[-validation:]), test)
