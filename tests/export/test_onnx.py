"""ONNX files equal the model, are reproducible, and do not reveal where they were made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from vaekit import roles
from vaekit.components.exporters import onnx as component
from vaekit.components.exporters.onnx import Onnx
from vaekit.errors import ExportError, UsageError
from vaekit.export.trained import Trained
from vaekit.export.verification import verify

Make = Callable[..., Trained]
SHAPES = [
    (1, 28, 28),
    (3, 64, 64),
    (3, 31, 47),
    pytest.param((3, 150, 150), marks=pytest.mark.slow),
]
ROOT = Path(__file__).parents[2]


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("decoder", roles.decoders.kinds())
def test_every_decoder_is_exported_and_equals_the_model(make: Make, decoder: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    trained = make(shape, decoder=decoder)
    exported = Onnx().export(trained, "decoder", tmp_path / "decoder.onnx")
    assert exported.parity.differences.keys() == {1, 2, 3, 64}
    assert exported.parity.difference <= 1e-5
    for batch in (1, 5):
        latent = torch.randn(batch, 3, generator=torch.Generator().manual_seed(batch))
        [image] = session(exported.path).run(None, {"latent": latent.numpy()})
        assert np.abs(image - trained.vae.decode(latent).numpy()).max() <= 1e-5
    assert {file.name for file in tmp_path.iterdir()} == {"decoder.onnx", "decoder.json"}


@pytest.mark.parametrize("encoder", roles.encoders.kinds())
def test_every_encoder_is_exported_with_mean_and_log_variance(make: Make, encoder: str, tmp_path: Path) -> None:
    trained = make((3, 31, 47), encoder=encoder)
    exported = Onnx().export(trained, "encoder", tmp_path / "encoder.onnx")
    image = torch.rand(2, 3, 31, 47, generator=torch.Generator().manual_seed(0))
    mean, log_variance = session(exported.path).run(["mean", "log_variance"], {"image": image.numpy()})
    mu, logvar = trained.vae.encode(image)
    for given, expected in ((mean, mu), (log_variance, logvar)):
        assert np.abs(given - expected.numpy()).max() <= 1e-5 * max(1.0, float(expected.abs().max()))


def test_encoder_of_a_posterior_without_variance_gives_its_mean(make: Make, tmp_path: Path) -> None:
    Onnx().export(make(posterior="delta"), "encoder", tmp_path / "encoder.onnx")
    assert [output.name for output in session(tmp_path / "encoder.onnx").get_outputs()] == ["mean"]


def test_autoencoder_decodes_the_mean(make: Make, tmp_path: Path) -> None:
    trained = make(encoder="cnn", decoder="cnn")
    Onnx().export(trained, "autoencoder", tmp_path / "autoencoder.onnx")
    image = torch.rand(2, 1, 9, 7, generator=torch.Generator().manual_seed(0))
    [reconstruction] = session(tmp_path / "autoencoder.onnx").run(None, {"image": image.numpy()})
    assert np.abs(reconstruction - trained.vae.reconstruct(image).numpy()).max() <= 1e-5


def test_images_of_an_unbounded_likelihood_stay_within_their_range(make: Make, tmp_path: Path) -> None:
    trained = make(likelihood="mse", link="identity")
    Onnx().export(trained, "decoder", tmp_path / "decoder.onnx")
    latent = 10 * torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    [image] = session(tmp_path / "decoder.onnx").run(None, {"latent": latent.numpy()})
    assert (image.min(), image.max()) == (0.0, 1.0)


# The file


@pytest.mark.parametrize(("opset", "ir_version"), [(18, 8), (20, 9), (23, 11)])
def test_opset_and_ir_version_are_the_lowest_that_suffice(make: Make, opset: int, ir_version: int, tmp_path: Path) -> None:
    Onnx(opset=opset).export(make(decoder="bilinear"), "decoder", tmp_path / "decoder.onnx")
    model = onnx.load(tmp_path / "decoder.onnx")
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert model.ir_version == ir_version


def test_default_opset_is_18() -> None:
    assert Onnx().opset == 18


def test_the_file_reveals_no_path_or_class(make: Make, tmp_path: Path) -> None:
    trained = make(decoder="resnet", dataset="array", **{"dataset.path": "/home/somebody/images.npy"})
    Onnx().export(trained, "decoder", tmp_path / "decoder.onnx")
    model = onnx.load(tmp_path / "decoder.onnx")
    assert [entry.key for entry in model.metadata_props] == ["vaekit"]
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
    text = str(model)
    for leak in ("/", "vaekit.", "site-packages", "torch.nn", "ResNet", "somebody", "pkg.", "aten:", "aten."):
        assert leak not in text, leak
    for node in model.graph.node:
        assert (node.doc_string, len(node.metadata_props)) == ("", 0)
        assert node.name.startswith(node.op_type)
    assert {tensor.name for tensor in model.graph.initializer} > {"decoder.net.0.1.weight", "decoder.net.0.1.bias"}


def test_metadata_describe_the_model_for_applications(make: Make, tmp_path: Path) -> None:
    Onnx(licence="CC0-1.0").export(make(decoder="cnn"), "decoder", tmp_path / "decoder.onnx")
    about = json.loads((tmp_path / "decoder.json").read_text())
    assert about == json.loads(session(tmp_path / "decoder.onnx").get_modelmeta().custom_metadata_map["vaekit"])
    assert (about["part"], about["precision"], about["licence"]) == ("decoder", "fp32", "CC0-1.0")
    assert (about["latent_size"], about["data_shape"], about["value_range"]) == (3, [1, 9, 7], [0.0, 1.0])
    assert about["inputs"] == [{"name": "latent", "type": "float32", "shape": ["batch", 3]}]
    assert about["outputs"] == [{"name": "image", "type": "float32", "shape": ["batch", 1, 9, 7]}]
    assert about["prior"] == {"kind": "normal"}
    latent = about["latents"][1]
    assert (latent["mean"], latent["std"], latent["kl"], *latent["range"]) == pytest.approx((0.1, 1.1, 1.0, -3.2, 3.4))
    assert about["spec"]["model"]["decoder"]["kind"] == "cnn"
    assert about["versions"]["trained_with"]["vaekit"] == "0.1.0"


def test_two_exports_in_different_processes_and_folders_are_equal_to_the_byte(make: Make, tmp_path: Path) -> None:
    code = """
import runpy, sys
from pathlib import Path
from vaekit.components.exporters.onnx import Onnx
build = runpy.run_path(sys.argv[1])["build"]
Onnx().export(build(decoder="bilinear"), "decoder", Path(sys.argv[2]))
"""
    Onnx().export(make(decoder="bilinear"), "decoder", tmp_path / "decoder.onnx")
    (tmp_path / "elsewhere").mkdir()
    other = tmp_path / "elsewhere" / "other.onnx"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", code, str(Path(__file__).with_name("conftest.py")), str(other)]
    subprocess.run(command, check=True, cwd=tmp_path / "elsewhere", env=environment, timeout=120)
    assert other.read_bytes() == (tmp_path / "decoder.onnx").read_bytes()
    assert other.with_suffix(".json").read_bytes() == (tmp_path / "decoder.json").read_bytes()


def test_weights_above_the_limit_go_to_a_second_file(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(component, "LARGEST", 1000)
    exported = Onnx().export(make(), "decoder", tmp_path / "decoder.onnx")
    assert "decoder.onnx.data" in exported.notes[0]
    assert (tmp_path / "decoder.onnx.data").stat().st_size > 1000
    names = ("decoder.onnx", "decoder.onnx.data", "decoder.json")
    assert exported.size == sum((tmp_path / name).stat().st_size for name in names)
    assert session(tmp_path / "decoder.onnx").run(None, {"latent": np.zeros((2, 3), np.float32)})[0].shape == (2, 1, 9, 7)
    assert verify(tmp_path / "decoder.onnx").difference <= 1e-5
    data = bytearray((tmp_path / "decoder.onnx.data").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "decoder.onnx.data").write_bytes(data)
    with pytest.raises(ExportError, match="is damaged"):
        verify(tmp_path / "decoder.onnx")


# Precisions


@pytest.mark.parametrize("decoder", ["mlp", "cnn"])
def test_half_precision_halves_the_file_and_preserves_the_images(make: Make, decoder: str, tmp_path: Path) -> None:
    trained = make((1, 28, 28), decoder=decoder, **{"decoder.hidden": (256,)})
    full = Onnx().export(trained, "decoder", tmp_path / "full.onnx")
    half = Onnx(fp16=True).export(trained, "decoder", tmp_path / "half.onnx")
    assert half.size < 0.55 * full.size
    assert 0 < half.parity.difference <= half.parity.tolerance == 5e-3
    assert {entry.type for entry in session(half.path).get_inputs() + session(half.path).get_outputs()} == {"tensor(float)"}


def test_weights_beyond_half_precision_are_refused(of_decoder: Callable[[nn.Module], Trained], tmp_path: Path) -> None:
    decoder = nn.Sequential(nn.Linear(3, 16), nn.Unflatten(1, (1, 4, 4)))
    decoder[0].weight.data.fill_(1e5)
    with pytest.raises(ExportError, match="differs from the model"):
        Onnx(fp16=True).export(of_decoder(decoder), "decoder", tmp_path / "decoder.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("decoder", "left"), [("cnn", "2 transposed convolutions remain in fp32"), ("bilinear", "all operations")]
)
def test_int8_reports_error_speed_and_float_layers(make: Make, decoder: str, left: str, tmp_path: Path) -> None:
    exported = Onnx(int8=True).export(make((1, 28, 28), decoder=decoder), "decoder", tmp_path / "decoder.onnx")
    text = "; ".join(exported.notes)
    assert exported.parity.tolerance is None
    assert 0 < exported.parity.difference < 0.2
    for part in ("experiment", left, "batch 1: ", "batch 64: ", "fp32"):
        assert part in text
    model = onnx.load(tmp_path / "decoder.onnx")
    assert model.ir_version == 8
    assert [entry.key for entry in model.metadata_props] == ["vaekit"]
    assert {tensor.data_type for tensor in model.graph.initializer} >= {onnx.TensorProto.INT8}


def test_two_precisions_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="cannot be both"):
        Onnx(fp16=True, int8=True)


# Decoders that cannot be exported


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 16)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.linear(z).unflatten(1, (1, 4, 4))


class BranchesOnLargeBatch(Net):
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return super().forward(z) if len(z) < 32 else 2 * super().forward(z)


class BranchesOnValues(Net):
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return super().forward(z) if z.sum() > 0 else 2 * super().forward(z)


class Bessel(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j1(x)


class Unsupported(Net):
    def __init__(self) -> None:
        super().__init__()
        self.bend = Bessel()

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.bend(super().forward(z))


class Lies(Net):
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return super().forward(z)[..., :3]


class Overflows(Net):
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return super().forward(z) / 0


class Fails(Net):
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return super().forward(z).view(2, 1, 4, 4)


@pytest.mark.parametrize(
    ("decoder", "parts"),
    [
        (BranchesOnLargeBatch, ["cannot be traced for batches of any size"]),
        (BranchesOnValues, ["cannot be traced", "z.sum() > 0"]),
        (Unsupported, ["bessel_j1", "decoder.bend", "Bessel"]),
        (Lies, ["a shape other than the declared one", "(1, 1, 4, 3)", "(1, 1, 4, 4)"]),
        (Overflows, ["NaN or infinite"]),
        (Fails, ["fails on 1 example", "invalid for input"]),
    ],
)
def test_failure_to_export_is_explained_and_leaves_nothing(
    of_decoder: Callable[[nn.Module], Trained], decoder: type[nn.Module], parts: list[str], tmp_path: Path
) -> None:
    trained = of_decoder(decoder())
    if decoder is Overflows:
        trained.vae.decoder.linear.weight.zero_()
        trained.vae.decoder.linear.bias.zero_()
    with pytest.raises(ExportError) as error:
        Onnx().export(trained, "decoder", tmp_path / "decoder.onnx")
    assert [part for part in parts if part not in str(error.value)] == []
    assert list(tmp_path.iterdir()) == []


def test_bicubic_resize_draws_a_warning(of_decoder: Callable[[nn.Module], Trained], tmp_path: Path) -> None:
    decoder = nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (1, 2, 2)), nn.Upsample((4, 4), mode="bicubic"))
    with pytest.warns(UserWarning, match="bicubic"):
        Onnx().export(of_decoder(decoder), "decoder", tmp_path / "decoder.onnx")


@pytest.mark.parametrize("place", ["folder.onnx", "file/decoder.onnx"])
def test_unwritable_path_is_named(make: Make, place: str, tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match=r"cannot write|not a regular file"):
        Onnx().export(make(), "decoder", tmp_path / place)
    assert {file.name for file in tmp_path.iterdir()} == {"folder.onnx", "file"}


def test_decoder_that_branches_on_the_batch_size_is_caught(branching: Trained, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="differs from the model") as error:
        Onnx().export(branching, "decoder", tmp_path / "decoder.onnx")
    assert float(str(error.value.given).split()[0]) > 0.01
    assert list(tmp_path.iterdir()) == []


def test_failed_export_keeps_the_previous_file(make: Make, branching: Trained, tmp_path: Path) -> None:
    Onnx().export(make(), "decoder", tmp_path / "decoder.onnx")
    before = (tmp_path / "decoder.onnx").read_bytes()
    with pytest.raises(ExportError):
        Onnx().export(branching, "decoder", tmp_path / "decoder.onnx")
    assert (tmp_path / "decoder.onnx").read_bytes() == before


@pytest.mark.parametrize("decoder", ["mlp", "resnet"])
def test_int8_is_refused_at_opsets_that_its_quantisation_does_not_support(decoder: str, make: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"opset 21(.*\n)*.*18 to 20"):
        Onnx(opset=21, int8=True)
    assert Onnx(opset=20, int8=True).export(make(decoder=decoder), "decoder", tmp_path / "decoder.onnx").size > 0
