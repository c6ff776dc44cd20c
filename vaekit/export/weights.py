"""Reduced file sizes: weights in half precision and, experimentally, 8-bit integers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from vaekit.export.graph import canonical, silence

INT8_OPERATIONS = ("Conv", "Gemm", "MatMul")
"""The operations with weights for which ONNX Runtime has 8-bit kernels."""


def halve(model: onnx.ModelProto) -> None:
    """Store float32 weights as float16, each followed by a cast back to float32.

    A runtime folds the casts when it loads the model, so it computes in float32, as fast as before, and only the rounding of the
    weights has an effect. Converting the arithmetic as well would lose more precision, and CPUs have no kernels for it.
    """
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            name, half = tensor.name, f"{tensor.name}.fp16"
            with np.errstate(over="ignore"):  # an infinite weight fails the comparison that follows
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), half))
            casts.append(onnx.helper.make_node("Cast", [half], [name], name=f"Cast_{half}", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def quantize(source: Path, examples: Sequence[Any]) -> onnx.ModelProto:
    """Return a model with 8-bit weights and activations for all operations with 8-bit kernels.

    Args:
        source: The file of a float32 model.
        examples: A batch of each input, on which the ranges of activations are measured.
    """
    from onnxruntime import quantization

    names = [entry.name for entry in onnx.load(source, load_external_data=False).graph.input]

    class Examples(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[dict[str, Any]] = iter([dict(zip(names, examples, strict=True))])

        def get_next(self) -> dict[str, Any] | None:
            return next(self.batches, None)

    target = source.with_name(f"int8.{source.name}")
    with silence():
        quantization.quantize_static(source, target, Examples(), op_types_to_quantize=list(INT8_OPERATIONS), per_channel=True)
    model = onnx.load(target)
    target.unlink()
    return canonical(model, keep={tensor.name for tensor in model.graph.initializer})


def left_in_float(model: onnx.ModelProto) -> str:
    """Describe which operations with weights remain in float32 in a quantised model."""
    number = sum(node.op_type == "ConvTranspose" for node in model.graph.node)
    if number:
        return f"{number} transposed convolutions remain in fp32, since ONNX Runtime has no 8-bit kernel for them"
    return "all operations with weights are 8-bit"
