"""The base class of exporters, and the result of an export."""

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
    """The result of an export.

    Args:
        path: The exported file; other files of the same name may lie beside it.
        size: The total size of the files in bytes.
        parity: The difference from the model.
        notes: What the user must know, one sentence each.
    """

    path: Path
    size: int
    parity: Parity
    notes: tuple[str, ...] = ()


class Exporter(Component, ABC):
    """Writes a trained model to a file that other programs can run; called by ``vaekit export --<kind> [PATH]``.

    Example:
        >>> @vaekit.exporters("mine")
        ... class Mine(vaekit.Exporter):
        ...     suffix = ".mine"
        ...
        ...     def export(self, trained, part, path):
        ...         subject = part_of(trained, part)
        ...         with staged(path) as temporary:
        ...             write(subject.module, temporary)
        ...             function, inputs = read(temporary), [each.numpy() for each in subject.examples]
        ...             parity = compare(function, torch_function(subject), inputs, tolerance=1e-5)
        ...             parity.require("the exported file differs from the model", remedy="report it to the author of 'mine'")
        ...             size = temporary.stat().st_size
        ...         return Exported(path, size, parity)
    """

    suffix: ClassVar[str]
    """The suffix of the files that it writes, such as ``.onnx``."""

    @abstractmethod
    def export(self, trained: Trained, part: PartName, path: Path) -> Exported:
        """Write a part of the model to ``path``, complete and verified, or not at all.

        Raises:
            ExportError: The part cannot be exported in this format, or the exported file differs from the model.
        """
