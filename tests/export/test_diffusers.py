"""Import from and export to diffusers, checked with the library itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import vaekit
from vaekit.cli import main
from vaekit.errors import CheckpointError, ExportError, UsageError
from vaekit.export import diffusers as export
from vaekit.store.diffusers import CONFIG, WEIGHTS, config_of, read_config, read_weights

diffusers = pytest.importorskip("diffusers")

SETTINGS: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    "layers_per_block": 2,
    "norm_num_groups": 4,
    "latent_channels": 3,
}


def saved(folder: Path, **settings: Any) -> Any:
    """Save an untrained model of diffusers, and return it."""
    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(**{**SETTINGS, **settings}).eval()
    model.save_pretrained(folder)
    return model


def loaded(folder: Path) -> Any:
    return diffusers.AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False).eval()


def test_import_and_export_of_a_model_of_codes_preserve_outputs(images: Path, tmp_path: Path):
    torch.manual_seed(0)
    own = {"latent_channels": 3, "num_vq_embeddings": 12, "block_out_channels": (8, 16), "norm_num_groups": 4}
    stages = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    model = diffusers.VQModel(**own, **stages).eval()
    model.save_pretrained(tmp_path / "there")
    run = imported(tmp_path / "there", images, tmp_path / "run")
    x = torch.rand(3, 3, 16, 12)
    with torch.no_grad():
        latents = model.encode(2 * x - 1).latents
        expected, *_ = model.quantize(latents)
        here = run.vae().encode(x)
        torch.testing.assert_close(here.mean, expected.flatten(1), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(run.vae().reconstruct(x), (model.decode(latents).sample + 1) / 2, atol=1e-5, rtol=1e-5)
    run.to_diffusers(tmp_path / "back")
    again = diffusers.VQModel.from_pretrained(tmp_path / "back", low_cpu_mem_usage=False)
    for name, tensor in model.state_dict().items():
        if not name.endswith("to_k.bias"):
            assert torch.equal(tensor, again.state_dict()[name]), name
    config = json.loads((tmp_path / "there" / CONFIG).read_text())
    (tmp_path / "there" / CONFIG).write_text(json.dumps({**config, "vq_embed_dim": 4}))
    with pytest.raises(CheckpointError, match="cannot be represented") as error:
        read_config(tmp_path / "there")
    assert "vq_embed_dim 4 for latent_channels 3" in str(error.value.given)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (60, 16, 12, 3), dtype=np.uint8))
    return path


def imported(folder: Path, images: Path, out: Path, **options: Any) -> vaekit.Run:
    given = {"dataset": "array", "dataset.path": str(images), "batch_size": 16, "epochs": 1, "pictures": "none", "device": "cpu"}
    return vaekit.import_diffusers(folder, out=out, **{**given, **options})


def equal_outputs(model: Any, vae: vaekit.VAE) -> None:
    x = torch.rand(3, 3, 16, 12)
    with torch.no_grad():
        there, here = model.encode(2 * x - 1).latent_dist, vae.encode(x)
        torch.testing.assert_close(here.mean, there.mean.flatten(1), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(here.logvar, there.logvar.flatten(1), atol=1e-5, rtol=1e-5)
        decoded = (model.decode(there.mean).sample + 1) / 2
        torch.testing.assert_close(vae.decode(here.mean), decoded, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{}, {"use_quant_conv": False, "use_post_quant_conv": False}, {"mid_block_add_attention": False, "layers_per_block": 1}],
    ids=["attention", "no-quant-conv", "no-middle-attention"],
)
def test_import_and_export_preserve_outputs(settings: dict[str, Any], images: Path, tmp_path: Path):
    model = saved(tmp_path / "there", **settings)
    run = imported(tmp_path / "there", images, tmp_path / "run")
    equal_outputs(model, run.vae())
    exported = run.to_diffusers(tmp_path / "back")
    assert exported.parity.difference < 1e-5
    again = loaded(tmp_path / "back")
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        if not name.endswith("to_k.bias"):
            assert torch.equal(tensor, after[name]), name
    equal_outputs(again, run.vae())
    for name in ("block_out_channels", "down_block_types", "up_block_types", "latent_channels", "norm_num_groups"):
        assert list(np.ravel(again.config[name])) == list(np.ravel(model.config[name])), name


def test_exported_latents_are_scaled_to_mean_0_and_standard_deviation_1(images: Path, tmp_path: Path):
    saved(tmp_path / "there")
    run = imported(tmp_path / "there", images, tmp_path / "run")
    run.to_diffusers()
    config = json.loads((run.path / "diffusers" / CONFIG).read_text())
    evaluation = run.evaluation()
    assert evaluation is not None
    mean, std = (torch.tensor(evaluation[f"latent_{name}"]) for name in ("mean", "std"))
    codes = mean + std * torch.randn(20_000, len(mean), generator=torch.Generator().manual_seed(0))
    scaled = (codes - config["shift_factor"]) * config["scaling_factor"]
    assert scaled.mean().item() == pytest.approx(0, abs=0.01)
    assert scaled.std().item() == pytest.approx(1, abs=0.01)


def test_an_imported_run_continues_training_and_a_frozen_encoder_is_unchanged(images: Path, tmp_path: Path):
    saved(tmp_path / "there")
    run = imported(tmp_path / "there", images, tmp_path / "run", epochs=2)
    assert run.position() == (0, 0)
    tuned = vaekit.train(run.path / "spec.yaml", out=tmp_path / "tuned", init=run.path, freeze=("encoder", "posterior"))
    x = torch.rand(4, 3, 16, 12)
    for one, other in zip(run.vae().encode(x), tuned.vae().encode(x), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(run.vae().decode(torch.zeros(1, 144)), tuned.vae().decode(torch.zeros(1, 144)))
    before = run.vae().state_dict()
    resumed = vaekit.resume(run.path)
    assert resumed.position() == (2, 0)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in resumed.vae().state_dict().items())


def test_commands(images: Path, tmp_path: Path, capsys):
    saved(tmp_path / "there")
    data = ["--dataset", "array", "--dataset.path", str(images), "--batch-size", "16", "--device", "cpu"]
    assert main(["import", str(tmp_path / "there"), *data, "--out", str(tmp_path / "run"), "--quiet"]) == 0
    assert main(["export", str(tmp_path / "run"), "--diffusers", str(tmp_path / "back")]) == 0
    assert str(tmp_path / "back") in capsys.readouterr().out
    loaded(tmp_path / "back")
    assert main(["export", str(tmp_path / "run"), "--diffusers", str(tmp_path / "back")]) == 0  # its own export is replaced
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert main(["export", str(tmp_path / "run"), "--diffusers", str(tmp_path / "mine")]) == 1
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"
    assert "other files" in capsys.readouterr().err


def test_names_of_older_versions(images: Path, tmp_path: Path):
    model = saved(tmp_path / "there")
    path = tmp_path / "there" / WEIGHTS
    older = {}
    for name, tensor in load_file(path).items():
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            if f".{new}." in name:
                name, tensor = name.replace(new, old), tensor[..., None, None] if name.endswith("weight") else tensor  # noqa: PLW2901
        older[name] = tensor.contiguous()
    save_file(older, path)
    equal_outputs(model, imported(tmp_path / "there", images, tmp_path / "run").vae())


def test_networks_cannot_be_imported_as_other_classes(images: Path, tmp_path: Path):
    saved(tmp_path / "there")
    with pytest.raises(UsageError, match="encoder differs from that of"):
        imported(tmp_path / "there", images, tmp_path / "run", **{"encoder.depth": 1})
    grey = tmp_path / "grey.npy"
    np.save(grey, np.zeros((60, 16, 12), dtype=np.uint8))
    with pytest.raises(UsageError, match="other data") as error:
        imported(tmp_path / "there", grey, tmp_path / "run")
    assert "3 channels" in str(error.value.expected)
    run = imported(tmp_path / "there", images, tmp_path / "run", **{"encoder.checkpointing": True})
    assert run.spec.model.encoder.checkpointing


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"act_fn": "relu"}, "act_fn 'relu'"),
        ({"_class_name": "AutoencoderTiny"}, "AutoencoderTiny"),
        ({"up_block_types": ["UpDecoderBlock2D"] * 2}, "stages"),
        ({"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}, "DownBlock2D"),
        ({"block_out_channels": [8]}, "stages"),
    ],
)
def test_a_model_that_cannot_be_represented_is_refused(change: dict[str, Any], expected: str, tmp_path: Path):
    saved(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**config, **change}))
    with pytest.raises(CheckpointError, match="cannot be represented") as error:
        read_config(tmp_path)
    assert expected in str(error.value.given)


def test_damaged_folders_are_refused(images: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_config(tmp_path / "nowhere")
    saved(tmp_path / "there")
    for text in ("{", "[]", "{}", '{"_class_name": "AutoencoderKL"}'):
        (tmp_path / "there" / CONFIG).write_text(text)
        with pytest.raises(CheckpointError, match="does not describe"):
            read_config(tmp_path / "there")
    saved(tmp_path / "there")
    weights = tmp_path / "there" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="truncated"):
        read_weights(tmp_path / "there")
    weights.unlink()
    with pytest.raises(CheckpointError, match="does not exist") as error:
        imported(tmp_path / "there", images, tmp_path / "run")
    assert "save_pretrained" in str(error.value.remedy)
    assert not (tmp_path / "run").exists()


def test_models_that_diffusers_cannot_represent_are_not_exported(make):
    trained = make((3, 8, 8), encoder="cnn", decoder="cnn")
    with pytest.raises(ExportError) as error:
        config_of(trained.vae, trained.spec, scaling_factor=1.0, shift_factor=0.0)
    assert "encoder 'cnn' instead of 'ldm'" in str(error.value.given)
    options = {"encoder.channels": (4, 8), "decoder.channels": (4, 8), "latent_stride": 2, "encoder.signed": False}
    trained = make((3, 8, 8), encoder="ldm", decoder="ldm", **options, **{"decoder.depth": 2})
    with pytest.raises(ExportError) as error:
        config_of(trained.vae, trained.spec, scaling_factor=1.0, shift_factor=0.0)
    for reason in ("depth of encoder and decoder differ", "signed", "--likelihood.link identity"):
        assert reason in str(error.value.given)


def test_a_model_with_different_outputs_is_not_written(images: Path, tmp_path: Path, monkeypatch):
    saved(tmp_path / "there")
    run = imported(tmp_path / "there", images, tmp_path / "run")
    right = export.weights_of
    monkeypatch.setattr(export, "weights_of", lambda vae: {name: 1.01 * tensor for name, tensor in right(vae).items()})
    with pytest.raises(ExportError, match="computes something else"):
        run.to_diffusers(tmp_path / "new" / "back")
    assert not (tmp_path / "new").exists()


def test_without_diffusers_export_names_the_extra(images: Path, tmp_path: Path, monkeypatch):
    saved(tmp_path / "there")
    run = imported(tmp_path / "there", images, tmp_path / "run")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UsageError) as error:
        run.to_diffusers()
    assert "vaekit[diffusers]" in str(error.value.remedy)
    assert not (run.path / "diffusers").exists()
