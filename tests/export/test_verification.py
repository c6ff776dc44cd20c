"""Changes to exported files are detected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from vaekit.components.exporters.onnx import Onnx
from vaekit.errors import ExportError
from vaekit.export import metadata as about
from vaekit.export.reading import OnnxFile
from vaekit.export.trained import Trained
from vaekit.export.verification import verify

Make = Callable[..., Trained]


@pytest.fixture(scope="module")
def exported(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Onnx().export(make(), "decoder", tmp_path_factory.mktemp("export") / "decoder.onnx").path


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    (tmp_path / "copy.onnx").write_bytes(exported.read_bytes())
    return tmp_path / "copy.onnx"


def test_export_is_intact_and_equals_its_model(make: Make, exported: Path) -> None:
    assert verify(exported).difference <= 1e-5
    assert verify(exported, make()).difference <= 1e-5


@pytest.mark.parametrize("part", ["encoder", "autoencoder"])
def test_other_parts_are_verified_too(make: Make, part: str, tmp_path: Path) -> None:
    path = Onnx().export(make(), part, tmp_path / "part.onnx").path  # type: ignore[arg-type]
    assert verify(path).difference <= 1e-5
    assert verify(path, make()).difference <= 1e-5


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.99])
def test_truncated_file_is_detected(copy: Path, fraction: float) -> None:
    content = copy.read_bytes()
    copy.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(ExportError, match=r"truncated|not exported by vaekit"):
        verify(copy)


def test_missing_and_non_onnx_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="does not exist"):
        verify(tmp_path / "absent.onnx")
    (tmp_path / "text.onnx").write_text("hello, I am a text and no model at all")
    with pytest.raises(ExportError, match="not an ONNX model"):
        verify(tmp_path / "text.onnx")


def test_foreign_model_is_refused(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    ports = [value(name, onnx.TensorProto.FLOAT, ["batch", 3]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Sigmoid", ["x"], ["y"])], "other", ports[:1], ports[1:])
    model = onnx.helper.make_model(graph, producer_name="somebody", opset_imports=[onnx.helper.make_opsetid("", 18)])
    model.ir_version = 8
    onnx.save_model(model, tmp_path / "other.onnx")
    with pytest.raises(ExportError, match="not exported by vaekit") as error:
        verify(tmp_path / "other.onnx")
    assert error.value.given == "producer somebody"


def test_changed_weights_differ_from_the_model(make: Make, copy: Path) -> None:
    model = onnx.load(copy)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("weight"))
    tensor.CopyFrom(numpy_helper.from_array(1.01 * numpy_helper.to_array(tensor), tensor.name))
    onnx.save_model(model, copy)
    for trained in (None, make()):
        with pytest.raises(ExportError, match="is damaged"):
            verify(copy, trained)


def test_every_flipped_bit_is_detected(exported: Path, copy: Path) -> None:
    content = exported.read_bytes()
    places = np.random.default_rng(0).choice(8 * len(content), 150, replace=False)
    for place in places.tolist():
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        copy.write_bytes(flipped)
        with pytest.raises(ExportError):
            verify(copy)


def test_other_weights_differ_from_the_run(make: Make, exported: Path) -> None:
    other = make()
    with torch.no_grad():
        next(other.vae.decoder.parameters()).mul_(1.01)
    with pytest.raises(ExportError, match="differs from the model"):
        verify(exported, other)


def test_file_of_another_run_is_detected(make: Make, copy: Path) -> None:
    with pytest.raises(ExportError, match="from another run"):
        verify(copy, make((1, 8, 8)))


def test_json_of_another_file_is_detected(copy: Path) -> None:
    copy.with_suffix(".json").write_text("{}")
    with pytest.raises(ExportError, match="does not belong"):
        verify(copy)


def test_graph_that_mixes_examples_is_detected(copy: Path) -> None:
    model = onnx.load(copy)
    [node] = [node for node in model.graph.node if "image" in node.output]
    node.output[0] = "whole"
    axes = numpy_helper.from_array(np.array([0]), "axes")
    model.graph.initializer.append(axes)
    model.graph.node.append(onnx.helper.make_node("ReduceMean", ["whole", "axes"], ["average"]))
    half = numpy_helper.from_array(np.array(0.5, np.float32), "half")
    model.graph.initializer.append(half)
    model.graph.node.append(onnx.helper.make_node("Add", ["whole", "average"], ["sum"]))
    model.graph.node.append(onnx.helper.make_node("Mul", ["sum", "half"], ["image"]))
    about.attach(model, OnnxFile(copy).metadata)
    onnx.save_model(model, copy)
    with pytest.raises(ExportError, match="depends on the batch"):
        verify(copy)
