"""Converts a part of a model to a canonical ONNX graph, without traces of the machine that produced it."""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx.inliner
import torch
from onnx.helper import find_min_ir_version_for
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from vaekit._version import __version__
from vaekit.errors import ExportError
from vaekit.export.parts import Part

BATCH = "batch"


def to_program(part: Part) -> ExportedProgram:
    """Trace the computation of a part for batches of any size.

    Raises:
        ExportError: The computation depends on values or on the batch size.
    """
    try:
        with silence():
            examples = tuple(each[:2] for each in part.examples)
            return torch.export.export(part.module, examples, dynamic_shapes=tuple({0: Dim(BATCH)} for _ in examples))
    except Exception as error:
        text = str(error)
        code = re.findall(r'File "[^"]+", line \d+, in \w+\n\s+(\S.*)', text)
        raise ExportError(
            f"the {part.name} cannot be traced for batches of any size",
            given=text.partition("\n")[0] + (f", at `{code[-1]}`" if code else ""),
            expected="tensor operations that do not branch on values or on the batch size",
            remedy="pass --debug for torch's full error message",
        ) from error


def to_onnx(part: Part, opset: int) -> onnx.ModelProto:
    """Return a part as an ONNX model with a dynamic batch size, free of paths, class names and anything else that varies.

    Raises:
        ExportError: The part cannot be traced, or has an operation that ONNX lacks; the message names the operation and module.
    """
    program = spelled_out(to_program(part))
    try:
        with silence():
            converted = torch.onnx.export(
                program,
                (),
                dynamo=True,
                opset_version=opset,
                input_names=[port.name for port in part.inputs],
                output_names=[port.name for port in part.outputs],
                external_data=False,
                verbose=False,
            )
    except Exception as error:
        raise _unsupported(part, program, error) from error
    assert converted is not None
    model: onnx.ModelProto = converted.model_proto
    return canonical(model, keep={name for name, _ in part.module.state_dict().items()})


def _log_sigmoid(x: Tensor) -> Tensor:
    return -F.softplus(-x)


def _cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None = None, pos_weight: Tensor | None = None, reduction: int = 1
) -> Tensor:
    loss = F.softplus(logits) - target * logits
    if weight is not None or pos_weight is not None:
        raise NotImplementedError("weights of a cross-entropy")
    return loss if reduction == 0 else loss.mean() if reduction == 1 else loss.sum()


def _log_gamma(x: Tensor) -> Tensor:
    """Return ``log Γ(x)`` of positive numbers, by Stirling's series at ``x + 6``, where it is exact to 2e-9."""
    y = x + 6
    series = (y - 0.5) * y.log() - y + 0.5 * math.log(2 * math.pi) + 1 / (12 * y) - 1 / (360 * y**3) + 1 / (1260 * y**5)
    return series - (x * (x + 1) * (x + 2)).log() - ((x + 3) * (x + 4) * (x + 5)).log()


FORMULAS: dict[Any, Any] = {
    torch.ops.aten.log_sigmoid.default: _log_sigmoid,
    torch.ops.aten.binary_cross_entropy_with_logits.default: _cross_entropy,
    torch.ops.aten.lgamma.default: _log_gamma,
}
"""Formulas of functions that the converter does not know, or turns into the logarithm of a sigmoid: that is minus infinity from
-104 on, and wrong by 1e-4 of a sum over pixels before that."""


def spelled_out(program: ExportedProgram) -> ExportedProgram:
    """Return a program in which the functions of `FORMULAS` are replaced by their formulas."""
    if not any(node.target in FORMULAS for node in program.graph.nodes):
        return program
    with silence():
        decomposed: ExportedProgram = program.run_decompositions(FORMULAS)
    return decomposed


def canonical(model: onnx.ModelProto, keep: set[str]) -> onnx.ModelProto:
    """Return a model without metadata, whose nodes and values, except those in ``keep``, are named by operation and order.

    It declares the lowest IR version that the opset allows, since runtimes reject versions that they do not know.
    """
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    _strip(model)
    graph = model.graph
    del graph.value_info[:]
    names = {value.name: value.name for value in (*graph.input, *graph.output)}
    fixed = [tensor.name for tensor in graph.initializer if tensor.name not in keep]
    names |= {tensor.name: tensor.name for tensor in graph.initializer} | {name: f"constant_{i}" for i, name in enumerate(fixed)}
    _rename(graph, names, counter=iter(range(10**9)))
    graph.name = "vaekit"
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    used = {node.domain for node in graph.node} | {""}
    for entry in [entry for entry in model.opset_import if entry.domain not in used]:
        model.opset_import.remove(entry)
    model.ir_version = find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    model.producer_name, model.producer_version = "vaekit", __version__
    return model


def _strip(message: Any) -> None:
    """Clear the metadata and documentation of a protobuf message and of all nested messages."""
    for field, value in message.ListFields():
        if field.name in {"metadata_props", "doc_string"}:
            message.ClearField(field.name)
        elif field.message_type is not None:
            for each in [value] if hasattr(value, "ListFields") else value:
                _strip(each)


def _rename(graph: onnx.GraphProto, names: dict[str, str], counter: Iterator[int]) -> None:
    for tensor in graph.initializer:
        tensor.name = names.setdefault(tensor.name, tensor.name)
    for node in graph.node:
        node.name = f"{node.op_type}_{next(counter)}"
        for i, output in enumerate(node.output):
            if output:
                names.setdefault(output, node.name if i == 0 else f"{node.name}_{i}")
        for values in (node.input, node.output):
            values[:] = [names.get(value, value) for value in values]
        attributes = sorted(node.attribute, key=lambda attribute: attribute.name)
        del node.attribute[:]
        node.attribute.extend(attributes)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename(inner, names, counter)
    for value in (*graph.input, *graph.output):
        value.name = names.setdefault(value.name, value.name)


def _unsupported(part: Part, program: ExportedProgram, error: Exception) -> ExportError:
    """Return an error that names the operation that stopped the conversion, and the module that calls it."""
    messages = []
    cause: BaseException | None = error
    while cause is not None:
        messages.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    text = "\n".join(messages)
    operation = re.search(r"OpOverload\(op='([^']+)'", text) or re.search(r"target=torch\.ops\.([\w.]+)", text)
    if operation is None:
        return ExportError(f"the {part.name} cannot be converted to ONNX", given=messages[-1].partition("\n")[0])
    name = operation[1]
    stem = name.partition(".")[2]
    modules = [
        list(node.meta["nn_module_stack"].values())[-1]
        for node in program.graph.nodes
        if stem in str(node.target) and node.meta.get("nn_module_stack")
    ]
    where = [f"{path or part.name} ({cls if isinstance(cls, str) else cls.__qualname__})" for path, cls in modules]
    return ExportError(
        f"the {part.name} has an operation that cannot be converted to ONNX: {name}",
        given=f"in module {where[0]}" if where else None,
        remedy="replace it with operations that ONNX supports",
    )


@contextmanager
def silence() -> Iterator[None]:
    """Suppress the warnings and logs of torch's exporter: anything that matters becomes an error or is verified."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
