"""What an exporter is, and what it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vaekit.interfaces import Component

if TYPE_CHECKING:
    from pathlib import Path

    from vaekit.export.parity import Parity
    from vaekit.export.parts import PartName
    from vaekit.export.trained import Trained


@dataclass(frozen=True)
class Exported:
    """What an exporter wrote.

    Args:
        path: The file; others of its name may lie beside it.
        size: Bytes of all of them.
        parity: How far it is from the model.
        notes: What a user must know, a sentence each.
    """

    path: Path
    size: int
    parity: Parity
    notes: tuple[str, ...] = ()


class Exporter(Component, ABC):
    """Writes a trained model as a file that other programs run; ``vaekit export --<kind> [PATH]`` calls it."""

    suffix: ClassVar[str]
    """Of the files that it writes, as ``.onnx``."""

    @abstractmethod
    def export(self, trained: Trained, part: PartName, path: Path) -> Exported:
        """Write a part of the model to ``path``, whole and verified, or not at all.

        Raises:
            ExportError: The part cannot be written in this format, or what was written differs from the model.
        """
