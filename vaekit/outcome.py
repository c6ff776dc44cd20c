"""What a run came to, as loggers take it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Codes(NamedTuple):
    """Where test images lie in the latent space: posterior means ``(N, D)``, images ``(N, C, H, W)``, names of labels if any."""

    means: Tensor
    images: Tensor
    labels: tuple[str, ...] | None


@dataclass(frozen=True)
class Outcome:
    """What a run came to, for its best weights.

    Args:
        step: Steps taken in all.
        evaluation: Numbers of the test set, as ``test/elbo``, in nats per image.
        codes: Encodes the first images of the test set, at most as many as asked for; called by those who want them.
    """

    step: int
    evaluation: Mapping[str, float]
    codes: Callable[[int], Codes]
