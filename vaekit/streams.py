"""Random streams: every draw is a function of (seed, stream, step), so checkpoints need no random state."""

from __future__ import annotations

import hashlib

import torch


class Streams:
    """Named, independent streams of random numbers.

    A generator is reseeded each time it is requested. A draw therefore depends on ``(seed, stream, step)`` alone: not on earlier
    draws, the number of processes that share the work, or whether pictures were made in between.

    Args:
        seed: The seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def generator(self, stream: str, step: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
        """Return a generator seeded for ``(seed, stream, step)``; draw from it before asking for the next."""
        device = torch.device(device)
        generator = self._generators.get(device)
        if generator is None:
            generator = self._generators[device] = torch.Generator(device)
        return generator.manual_seed(derive_seed(self.seed, stream, step))


def derive_seed(seed: int, stream: str, step: int) -> int:
    """Hash ``(seed, stream, step)`` into 63 bits."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
