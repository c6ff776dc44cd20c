"""Running sums of the values that steps report."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vaekit.compute.distributed import ProcessGroup


class Meter:
    """Sums of named values, which stay on the device until they are read."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sums: Tensor | None = None
        self.count = 0

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Add the values of one step, each 0-d."""
        values = torch.stack(list(terms.values()))
        if self.sums is None:
            self.names = list(terms)
            exact = torch.float32 if values.device.type == "mps" else torch.float64
            self.sums = torch.zeros_like(values, dtype=exact)
        self.sums += values
        self.count += 1

    def means(self, processes: ProcessGroup | None = None) -> dict[str, float]:
        """Return the mean of each value, over all processes if a group is given; this synchronises with the device."""
        if self.sums is None:
            return {}
        sums = self.sums if processes is None else processes.sum(self.sums.clone()) / processes.size
        return dict(zip(self.names, (sums / self.count).tolist(), strict=True))
