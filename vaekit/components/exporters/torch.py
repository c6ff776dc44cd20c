"""The exporter ``torch``."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch

from vaekit.export import metadata as about
from vaekit.export.exporter import Exported, Exporter
from vaekit.export.graph import to_program
from vaekit.export.parity import TOLERANCE, Array, compare, torch_function
from vaekit.export.parts import PartName, part_of
from vaekit.export.staging import staged
from vaekit.roles import exporters

if TYPE_CHECKING:
    from vaekit.export.trained import Trained


@exporters("torch")
class Torch(Exporter):
    """PyTorch's .pt2 format: runs in torch without vaekit or the components' code; any batch size, verified against the model.

    ``torch.export.load(path).module()`` returns the function. The file holds the metadata under the name ``vaekit``.

    Args:
        licence: Licence of the model, stored in the metadata, for example CC-BY-4.0.
    """

    suffix: ClassVar[str] = ".pt2"

    def __init__(self, *, licence: str | None = None) -> None:
        self.licence = licence

    def export(self, trained: Trained, part: PartName, path: Path) -> Exported:
        subject = part_of(trained, part)
        metadata = about.describe(trained, subject, precision="fp32", licence=self.licence)
        program = to_program(subject)
        for node in program.graph.nodes:  # it contains local paths
            node.meta.pop("stack_trace", None)
        with staged(path) as temporary:
            torch.export.save(program, temporary, extra_files={about.KEY: json.dumps(metadata, ensure_ascii=False)})
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The given buffer is not writable")  # torch 2.9 does not write to it
                module = torch.export.load(temporary).module()

            def run(inputs: Sequence[Array]) -> list[Array]:
                with torch.no_grad():
                    result = module(*map(torch.from_numpy, inputs))
                return [result.numpy()] if isinstance(result, torch.Tensor) else [output.numpy() for output in result]

            examples = [each.numpy() for each in subject.examples]
            parity = compare(run, torch_function(subject), examples, tolerance=TOLERANCE, units=subject.units).require(
                f"the exported {part} differs from the model, so it was not written",
                remedy="check whether its forward pass depends on the batch size",
            )
            size = temporary.stat().st_size
        return Exported(path, size, parity)
