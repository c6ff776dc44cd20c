"""Images of a dataset as the model sees them: scaled, and binarised as in evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaekit.data import Batches, Binarize, ImageSource
from vaekit.errors import UsageError
from vaekit.streams import Streams

CHUNK = 256
"""Number of images to read at a time."""


class Examples(NamedTuple):
    """Images ``(N, C, H, W)`` and, if the dataset has any, labels ``(N,)`` and their names."""

    images: Tensor
    labels: Tensor | None
    names: tuple[str, ...] | None

    def name(self, label: int) -> str:
        """Return the name of a label."""
        return self.names[label] if self.names is not None else str(label)

    def at(self, index: Any) -> Examples:
        """Return the examples at a slice or at indices."""
        return Examples(self.images[index], None if self.labels is None else self.labels[index], self.names)

    def followed_by(self, other: Examples) -> Examples:
        """Concatenate with other examples; labels are dropped unless both have them."""
        labels = None if self.labels is None or other.labels is None else torch.cat([self.labels, other.labels])
        return Examples(torch.cat([self.images, other.images]), labels, self.names)

    def to(self, device: torch.device) -> Examples:
        """Return the examples on a device."""
        return Examples(self.images.to(device), None if self.labels is None else self.labels.to(device), self.names)

    def split(self, size: int) -> Iterator[Examples]:
        """Yield the examples in parts of at most ``size``."""
        return (self.at(slice(start, start + size)) for start in range(0, len(self.images), size))


def read_examples(source: ImageSource, index: Sequence[int] | Tensor, binarize: Binarize) -> Examples:
    """Read the test images at ``index``.

    Raises:
        UsageError: An index is outside the dataset.
    """
    numbers = list(map(int, index))
    if not numbers or min(numbers) < 0 or max(numbers) >= len(source):
        raise UsageError(
            "no such image in the dataset",
            given=", ".join(map(str, numbers[:5])) or "no index",
            expected=f"indices from 0 to {len(source) - 1}",
        )
    index = torch.tensor(numbers)
    batches = Batches(source, batch_size=CHUNK, streams=Streams(0), binarize=binarize, train=False, split="test")
    images = torch.cat([batches.fixed(chunk) for chunk in index.split(CHUNK)])
    return Examples(images, None if source.labels is None else source.labels[index], source.class_names)
