"""A reporter for tests."""

from __future__ import annotations

from typing import Any

from vaekit.training.progress import Silent, Start


class Listener(Silent):
    """Records the notes at the start of a run; optionally stops it after an epoch.

    Args:
        last: The epoch after which the run is interrupted; 0 for none.
    """

    def __init__(self, last: int = 0) -> None:
        self.last = last
        self.notes: tuple[str, ...] = ()

    def start(self, start: Start) -> None:
        self.notes = start.notes

    def epoch(self, record: Any) -> None:
        if record["epoch"] == self.last:
            raise KeyboardInterrupt
