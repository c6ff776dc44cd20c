"""The exporter ``onnx``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import onnx
from pydantic import Field

from vaekit.errors import ExportError, UsageError
from vaekit.export import metadata as about
from vaekit.export.exporter import Exported, Exporter
from vaekit.export.graph import to_onnx
from vaekit.export.latency import latencies
from vaekit.export.parity import TOLERANCES, compare, torch_function
from vaekit.export.parts import Part, PartName, part_of
from vaekit.export.reading import OnnxFile
from vaekit.export.staging import staged
from vaekit.export.weights import halve, left_in_float, quantize
from vaekit.roles import exporters

if TYPE_CHECKING:
    from vaekit.export.trained import Trained

LARGEST = 2**31 - 2**20
"""Maximum size in bytes of the weights in a single file: a protobuf message must be smaller than 2 GiB."""


LAST_INT8_OPSET = 20
"""The latest opset that ONNX Runtime can quantise: with opset 21, it fails or writes models that it cannot load."""


@exporters("onnx")
class Onnx(Exporter):
    """ONNX, for ONNX Runtime in Python, Node, browsers and elsewhere: one file, any batch size, verified against the model.

    A JSON file of the same name describes the model for applications: shapes, names, and the range and KL of every latent. ONNX
    Runtime supports the defaults, opset 18 and IR version 8, since version 1.17, including its web build and CUDA provider.
    Repeated exports of a model are identical byte for byte.

    Args:
        opset: Version of the ONNX operator set.
        fp16: Whether to store weights in half precision, which halves the file size; inputs, outputs and arithmetic stay fp32.
        int8: Whether to quantise layers to 8-bit integers where ONNX Runtime can; experimental: error and speed are reported.
        licence: Licence of the model, stored in the metadata, for example CC-BY-4.0.
    """

    suffix: ClassVar[str] = ".onnx"

    def __init__(
        self,
        *,
        opset: Annotated[int, Field(ge=18, le=23)] = 18,
        fp16: bool = False,
        int8: bool = False,
        licence: str | None = None,
    ) -> None:
        if fp16 and int8:
            raise UsageError("an export cannot be both fp16 and int8", given="fp16 and int8", remedy="choose one")
        if int8 and opset > LAST_INT8_OPSET:
            raise UsageError(
                "ONNX Runtime's 8-bit quantisation does not support this opset",
                given=f"opset {opset}",
                expected=f"18 to {LAST_INT8_OPSET} with int8",
            )
        self.opset, self.licence = opset, licence
        self.precision: about.Precision = "int8" if int8 else "fp16" if fp16 else "fp32"

    def export(self, trained: Trained, part: PartName, path: Path) -> Exported:
        if part == "scorer" and self.precision != "fp32":
            raise ExportError(
                "a threshold separates scores only in full precision", given=self.precision, remedy="export the scorer as fp32"
            )
        subject = part_of(trained, part)
        metadata = about.describe(trained, subject, precision=self.precision, licence=self.licence)
        model = to_onnx(subject, self.opset)
        _warn_of_slow_operations(model, part)
        if self.precision == "fp16":
            halve(model)
        metadata = about.attach(model, metadata)
        with staged(path) as temporary:
            notes = _save(model, temporary)
            if self.precision == "int8":
                more, metadata = _quantized(temporary, subject, metadata)
                notes += more
            file = OnnxFile(temporary)
            parity = compare(
                file.function,
                torch_function(subject),
                [each.numpy() for each in subject.examples],
                tolerance=TOLERANCES[self.precision],
                units=subject.units,
            ).require(
                f"the exported {part} differs from the model, so it was not written",
                remedy="check whether its forward pass depends on the batch size"
                + (", or export without --fp16" if self.precision == "fp16" else ""),
            )
            temporary.with_suffix(".json").write_text(about.as_text(metadata), "utf-8")
            size = sum(each.stat().st_size for each in temporary.parent.iterdir())
        return Exported(path, size, parity, notes)


def _save(model: onnx.ModelProto, path: Path) -> tuple[str, ...]:
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) <= LARGEST:
        path.write_bytes(model.SerializeToString(deterministic=True))
        return ()
    data = f"{path.name}.data"
    onnx.save_model(model, path, save_as_external_data=True, all_tensors_to_one_file=True, location=data)
    return (f"the weights exceed the 2 GB limit of an ONNX file; they are in {data}, which must stay next to it",)


def _quantized(path: Path, part: Part, metadata: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Replace a float32 file with its 8-bit version; return notes on the result and its speed, and its metadata."""
    examples = [each.numpy() for each in part.examples]
    functions = {"fp32": OnnxFile(path).function}
    model = quantize(path, examples)
    attached = about.attach(model, metadata)
    notes: tuple[str, ...] = ("int8 is experimental", left_in_float(model), *_save(model, path))
    functions["int8"] = OnnxFile(path).function
    for inputs in ([each[:1] for each in examples], examples):
        times = latencies({name: partial(function, inputs) for name, function in functions.items()}, seconds=0.3)
        notes += (f"batch {len(inputs[0])}: {times['int8'].median:.3g} ms, fp32 {times['fp32'].median:.3g} ms",)
    return notes, attached


def _warn_of_slow_operations(model: onnx.ModelProto, part: PartName) -> None:
    modes = [a.s for node in model.graph.node if node.op_type == "Resize" for a in node.attribute if a.name == "mode"]
    if b"cubic" in modes:
        warnings.warn(f"the {part} uses bicubic resizing, 4-5 times slower than bilinear in ONNX Runtime", stacklevel=2)
