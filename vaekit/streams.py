"""Random streams: every draw is a function of (seed, stream, step), so checkpoints need no random state."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Streams:
    """Named, independent random streams.

    A generator is reseeded each time it is requested. A draw therefore depends only on ``(seed, stream, step)``, not on earlier
    draws, the number of processes, or whether pictures were drawn in between.

    Args:
        seed: The seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

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


def derive_seed(seed: int, stream: str, step: int) -> int:
    """Hash ``(seed, stream, step)`` into 63 bits."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
