"""Random streams: every draw is a function of (seed, stream, step), so checkpoints need no random state."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

Drawn = TypeVar("Drawn", Tensor, Tensor | None)
Draw = Callable[[int, torch.Generator], Drawn]
"""A function that draws a number of rows with a generator."""


class Streams:
    """Named, independent random streams.

    A generator is reseeded each time it is requested. A draw therefore depends only on ``(seed, stream, step)``, not on earlier
    draws, the number of processes, or whether pictures were drawn in between.

    Args:
        seed: The seed of the run.
    """

    num_seeds = 1
    """The number of seeds."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def draw(self, stream: str, step: int, num: int, draw: Draw[Drawn], device: torch.device | str = "cpu") -> Drawn:
        """Return ``draw(num, generator)``, that is, ``num`` rows, with the generator for ``(seed, stream, step)``."""
        return draw(num, self.generator(stream, step, device))

    def generator(self, stream: str, step: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
        """Return a generator seeded for ``(seed, stream, step)``; use it before requesting the next."""
        device = torch.device(device)
        generator = self._generators.get(device)
        if generator is None:
            generator = self._generators[device] = torch.Generator(device)
        return generator.manual_seed(derive_seed(self.seed, stream, step))


class RecordableStreams(Streams):
    """Streams for CUDA graphs: each has its own generator at a fixed address.

    Within `recorded`, generators are returned without being seeded. Before a recording is replayed, `seed_recorded` seeds them,
    so a replayed step draws the same numbers as an ordinary step.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._own: dict[tuple[str, torch.device], torch.Generator] = {}
        self._recorded: dict[str, torch.Generator] = {}
        self._recording = False

    def generator(self, stream: str, step: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
        """Return the generator of a stream, seeded for ``(seed, stream, step)`` except during a recording."""
        device = torch.device(device)
        generator = self._own.get((stream, device))
        if generator is None:
            generator = self._own[stream, device] = torch.Generator(device)
        if self._recording:
            self._recorded[stream] = generator
            return generator
        return generator.manual_seed(derive_seed(self.seed, stream, step))

    @contextmanager
    def recorded(self) -> Iterator[list[torch.Generator]]:
        """Return generators without seeding them within the context, which yields the generators of all streams so far."""
        self._recording = True
        try:
            yield list(self._own.values())
        finally:
            self._recording = False

    def seed_recorded(self, step: int) -> None:
        """Seed the generators used within `recorded` for a step."""
        for stream, generator in self._recorded.items():
            generator.manual_seed(derive_seed(self.seed, stream, step))


class JointStreams:
    """The streams of several seeds, for a batch that consists of a batch of each: each seed draws an equal part of the rows.

    Args:
        each: The streams of each seed.
    """

    def __init__(self, each: Sequence[Streams]) -> None:
        self.each, self.num_seeds = tuple(each), len(each)

    def draw(self, stream: str, step: int, num: int, draw: Draw[Drawn], device: torch.device | str = "cpu") -> Drawn:
        """Return the rows that the seeds draw, one seed after another; None if they draw none."""
        parts = [each.draw(stream, step, num // self.num_seeds, draw, device) for each in self.each]
        drawn = [part for part in parts if part is not None]
        return torch.cat(drawn) if drawn else parts[0]


def derive_seed(seed: int, stream: str, step: int) -> int:
    """Hash ``(seed, stream, step)`` into 63 bits."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
