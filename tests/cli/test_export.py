"""``vaekit export``, ``verify`` and ``bench``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnxruntime
import pytest

import vaekit
from vaekit import roles
from vaekit.export.exporter import Exported
from vaekit.export.parity import Parity
from vaekit.export.parts import PartName
from vaekit.export.trained import Trained

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 256, (64, 8, 8), dtype=np.uint8))
    options = {"encoder.hidden": (16,), "decoder.hidden": (16,), "latent_dim": 2, "batch_size": 16, "epochs": 1, "device": "cpu"}
    vaekit.train(dataset="array", path=str(folder / "images.npy"), out=folder / "run", **options)
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs" / "0001-x"))


def test_newest_run_is_exported_into_its_folder_and_the_path_printed(
    cli: Cli, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("export", "--onnx")
    assert (code, err) == (0, "")
    assert out.startswith("runs/0001-x/decoder.onnx\n")
    assert "verified: largest difference" in out
    assert (run / "decoder.onnx").is_file()


def test_latents_are_described_by_the_evaluation_without_the_data(cli: Cli, run: Path) -> None:
    assert cli("export", run, "--onnx")[0] == 0
    about = json.loads((run / "decoder.json").read_text())
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert [latent["kl"] for latent in about["latents"]] == evaluation["kl_per_latent"]
    for latent, mean, std in zip(about["latents"], evaluation["latent_mean"], evaluation["latent_std"], strict=True):
        assert latent["range"] == pytest.approx([mean - 3 * std, mean + 3 * std])
    assert about["spec"]["data"]["dataset"] == {"kind": "array"}


def test_latents_are_measured_without_an_evaluation(cli: Cli, run: Path) -> None:
    (run / "evaluation.json").unlink()
    code, _, err = cli("export", run, "--onnx")
    assert (code, err) == (0, "")
    assert json.loads((run / "decoder.json").read_text())["latents"][0]["kl"] >= 0


@pytest.mark.filterwarnings("default:the latents' statistics")
def test_latents_are_unknown_without_evaluation_and_data(cli: Cli, run: Path) -> None:
    (run / "evaluation.json").unlink()
    shutil.rmtree(run / "checkpoints")
    code, _, err = cli("export", run, "--onnx")
    assert code == 0
    assert "the latents' statistics are unknown" in err
    [latent, _] = json.loads((run / "decoder.json").read_text())["latents"]
    assert latent == {"mean": 0.0, "std": 1.0, "range": [-3.0, 3.0], "kl": None}


@pytest.mark.parametrize(
    "arguments",
    [
        "RUN --onnx OUT",
        "--onnx OUT RUN",
        "--onnx=OUT RUN",
        "--part decoder RUN --onnx OUT --opset 20",
        "--no-fp16 --onnx OUT RUN --exporter.opset=20",
    ],
)
def test_path_may_follow_the_format_in_any_order(cli: Cli, run: Path, tmp_path: Path, arguments: str) -> None:
    out = tmp_path / "new" / "model.onnx"
    words = [word.replace("RUN", str(run)).replace("OUT", str(out)) for word in arguments.split()]
    assert cli("export", *words)[0] == 0
    assert {file.name for file in out.parent.iterdir()} == {"model.onnx", "model.json"}


def test_run_after_the_format_is_not_parsed_as_its_path(cli: Cli, run: Path) -> None:
    code, out, _ = cli("export", "--onnx", run, "--part", "encoder", "--licence", "CC0-1.0")
    assert (code, out.splitlines()[0]) == (0, str(run / "encoder.onnx"))
    assert json.loads((run / "encoder.json").read_text())["licence"] == "CC0-1.0"


def test_several_formats_at_once(cli: Cli, run: Path) -> None:
    assert cli("export", run, "--onnx", "--torch", "--fp16", "--licence=MIT")[0] == 0
    assert json.loads((run / "decoder.json").read_text())["precision"] == "fp16"
    assert (run / "decoder.pt2").is_file()


@pytest.fixture
def text_exporter() -> Iterator[None]:
    @roles.exporters("text_file")
    class TextFile(vaekit.Exporter):
        """Sizes as text.

        Args:
            prefix: What comes first.
        """

        suffix: ClassVar[str] = ".txt"

        def __init__(self, *, prefix: str = "") -> None:
            self.prefix = prefix

        def export(self, trained: Trained, part: PartName, path: Path) -> Exported:
            path.write_text(f"{self.prefix}{part} {trained.vae.latent_dim}")
            return Exported(path, path.stat().st_size, Parity({1: 0.0}, 1e-5, 0.0))

    yield
    del roles.exporters._classes["text_file"]


@pytest.mark.usefixtures("text_exporter")
def test_registered_exporter_has_a_flag_and_its_options(cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = cli("export", run, "--text-file", "--prefix", "a ")
    assert (code, out.splitlines()[0]) == (0, str(run / "decoder.txt"))
    assert (run / "decoder.txt").read_text() == "a decoder 2"
    monkeypatch.setenv("COLUMNS", "150")
    code, out, _ = cli("export", "--text-file", "--help")
    assert code == 0
    for part in ("--onnx", "--torch", "--text-file", "Sizes as text.", "--prefix", "What comes first."):
        assert part in out
    assert "--opset" not in out


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        ("", 2, ["no format given", "--onnx or --torch"]),
        ("--onnx model.bin", 2, ["writes .onnx files", "model.bin"]),
        ("--onnx --part head", 2, ["unknown part of a model", "decoder, encoder, autoencoder"]),
        ("--onnx --opset 12", 2, ["opset", "greater than or equal to 18"]),
        ("--onnx --opset x", 2, ["opset", "'x'"]),
        ("--onnx --fp16 --int8", 2, ["both fp16 and int8"]),
        ("--torch --opset 18", 2, ["No such option"]),
        ("--onnx /dev/null/decoder.onnx", 1, ["cannot write /dev/null/decoder.onnx"]),
    ],
)
def test_mistakes_are_explained(cli: Cli, run: Path, arguments: str, code: int, parts: list[str]) -> None:
    given, out, err = cli("export", run, *arguments.split())
    assert (given, out) == (code, "")
    assert "Traceback" not in err
    assert [part for part in parts if part not in err] == []
    assert not list(run.glob("*.onnx"))


def test_run_without_weights_is_named(cli: Cli, run: Path, tmp_path: Path) -> None:
    (run / "model.safetensors").unlink()
    code, _, err = cli("export", run, "--onnx")
    assert code == 1
    assert "does not exist" in err
    assert "model.safetensors" in err
    code, _, err = cli("export", tmp_path, "--onnx")
    assert code == 1
    assert "is not a run folder" in err


def test_export_from_python(run: Path) -> None:
    exported = vaekit.Run(run).export("onnx", part="autoencoder", fp16=True)
    assert exported.path == run / "autoencoder.onnx"
    assert exported.parity.difference <= 5e-3


def test_verify_alone_and_against_the_run(cli: Cli, run: Path) -> None:
    cli("export", run, "--onnx")
    code, out, _ = cli("verify", run / "decoder.onnx")
    assert code == 0
    assert "is intact" in out
    code, out, _ = cli("verify", run / "decoder.onnx", "--run", run)
    assert code == 0
    assert "compared with the model of" in out
    (run / "decoder.onnx").write_bytes((run / "decoder.onnx").read_bytes()[:-1000])
    code, _, err = cli("verify", run / "decoder.onnx")
    assert code == 1
    assert "truncated" in err


def test_bench_compares_both_runtimes(cli: Cli, run: Path, tmp_path: Path) -> None:
    cli("export", run, "--onnx")
    code, out, _ = cli("bench", "--onnx", run / "decoder.onnx", "--seconds", 0.1, "--batch", "1,4", "--threads", 1, "--json")
    result = json.loads(out)
    assert code == 0
    assert [row["batch"] for row in result["rows"]] == [1, 4]
    for row in result["rows"]:
        for runtime in ("onnx", "torch"):
            assert 0 < row[runtime]["lower"] <= row[runtime]["median"] <= row[runtime]["upper"]
        assert row["speedup"] == pytest.approx(row["torch"]["median"] / row["onnx"]["median"])
    assert result["environment"]["threads"] == 1
    assert result["environment"]["versions"]["onnxruntime"] == onnxruntime.__version__
    shutil.copy(run / "decoder.onnx", tmp_path)
    code, out, _ = cli("bench", "--onnx", tmp_path / "decoder.onnx", "--seconds", 0.1, "--batch", 2)
    assert code == 0
    assert "no weights found" in out


def test_bench_explains_mistakes(cli: Cli) -> None:
    code, _, err = cli("bench", "--onnx", "x.onnx", "--batch", "1,x")
    assert code == 2
    assert "batch sizes" in err
