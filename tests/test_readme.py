"""The README is correct: its code runs as written, and everything it names exists."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small import random_weights

import vaekit
from vaekit.benchmark import latency, throughput
from vaekit.cli import main
from vaekit.evaluation.metrics import documentation
from vaekit.sweeps import grid
from vaekit.training.progress import Silent

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
HEADINGS = [
    "vaekit",
    "Train",
    "Sharp pictures, and samples of them",
    "Models from the literature",
    "Numbers",
    "Export",
    "From Python",
    "Data",
    "Write a backbone in 20 lines",
    "Write a posterior",
    "Write a loss with a network of its own",
    "Design",
    "Contributing",
    "Changes",
]
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
"""The language and text of each fenced block."""
PROSE = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)


def section(heading: str) -> str:
    """Return the text below a heading."""
    found = re.search(rf"^##? {re.escape(heading)}\n(.*?)(?=^##? |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found is not None, f"the README has no section {heading!r}"
    return found[1]


def block_below(heading: str, language: str) -> str:
    """Return the only block of a language below a heading."""
    (block,) = re.findall(rf"^```{language}\n(.*?)^```", section(heading), re.MULTILINE | re.DOTALL)
    return block


# What it names


def test_the_linked_headings_exist():
    assert re.findall(r"^##* (.*)$", PROSE, re.MULTILINE) == HEADINGS


def test_every_link_leads_to_a_file_or_a_heading():
    anchors = {heading.lower().replace(" ", "-") for heading in HEADINGS}
    links = re.findall(r"\]\(([^)\s]+)\)", PROSE)
    assert len(links) > 10
    for link in links:
        file, _, anchor = link.partition("#")
        assert file == "" or (ROOT / file).exists(), link
        assert anchor == "" or anchor in anchors, link


def test_every_path_of_the_repository_exists():
    top = "|".join(re.escape(path.name) for path in ROOT.iterdir() if path.is_dir())
    paths = re.findall(rf"`[^`]*?(?<![\w/])((?:{top})/[\w./-]*)[^`]*`", PROSE)
    assert "vaekit/components/datasets/digits.LICENSE.md" in paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_table_of_metrics_is_current():
    assert f"\n\n{documentation()}\n" in section("Numbers")


def test_every_component_that_it_names_with_a_flag_exists():
    registries = {registry.role: registry for registry in vaekit.roles.REGISTRIES}
    named = re.findall(r"--(encoder|decoder|loss|dataset|logger|posterior|prior|likelihood|condition) (\w+)", README)
    unknown = [(role, kind) for role, kind in named if kind not in registries[role]]
    assert set(unknown) <= {("encoder", "mine"), *(("loss", kind) for kind in vaekit.likelihoods.kinds())}


# Python


@pytest.mark.parametrize(
    "heading", ["From Python", "Write a backbone in 20 lines", "Write a posterior", "Write a loss with a network of its own"]
)
def test_python_blocks_run_unchanged(heading, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", block_below(heading, "python")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "runs").glob("*/model.safetensors"))


def test_every_python_block_is_tested():
    assert sum(language == "python" for language, _ in BLOCKS) == 4


def test_the_same_backbone_as_a_package_is_found_by_its_entry_point(tmp_path):
    code = block_below("Write a backbone in 20 lines", "python")
    announced = block_below("Write a backbone in 20 lines", "toml")
    (tmp_path / "acme.py").write_text(code.partition("\ncheck_encoder(")[0] + "\n", "utf-8")
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n", "utf-8")
    table, _, entry_point = announced.strip().rpartition("\n")
    group = re.fullmatch(r'\[project\.entry-points\."(.*)"\]', table)
    assert group is not None
    (info / "entry_points.txt").write_text(f"[{group[1]}]\n{entry_point.replace(chr(34), '')}\n", "utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "VAEKIT_PLUGINS": "1"}
    command = [sys.executable, "-m", "vaekit", "plugins", "check", "mine"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "encoder mine  (acme 1.0)" in done.stdout


# The shell

TRAINS = "trains 30 epochs, half a minute or more"
NOT_RUN = {
    "vaekit train": TRAINS,
    "vaekit train --encoder cnn --loss beta --beta 4": TRAINS,
    "vaekit train --dataset mnist --epochs 30": "downloads MNIST",
    "vaekit train --dataset folder --dataset.path photos --dataset.size 150 --encoder cnn --decoder bilinear "
    "--pictures 2,10,20,28": "reads the user's photos",
    'vaekit train --loss beta --beta "linear(0, 1, 10)"': TRAINS,
    "vaekit train --loss mse --loss tc --tc.beta 6 --latent-dim 10": TRAINS,
    "vaekit train --loss control --loss.kl 12": TRAINS,
    "vaekit train --condition label --latent-dim 8": TRAINS,
    "vaekit train --prior vamp": TRAINS,
    "vaekit train --posterior vmf --latent-dim 6": TRAINS,
    "vaekit train --posterior vq --encoder cnn --latent-dim 16 --latent-stride 4 --num-codes 64": TRAINS,
    "vaekit train --augment.shear 25 --augment.rotate 10": TRAINS,
    "vaekit train --schedule constant --ema 0.99": TRAINS,
    "vaekit train --batch-size 256 --accumulate 8": TRAINS,
    "vaekit train --dataset folder --dataset.path photos --dataset.size 64 --encoder cnn --latent-dim 8 "
    "--latent-stride 8": TRAINS,
    "vaekit train --dataset folder --dataset.path photos --dataset.size 64 --model ldm-kl": TRAINS,
    "vaekit sweep --loss beta --over beta=1,2,4,8 --over seed=0..3": "trains 16 models",
    'vaekit sweep --loss beta --over "beta=linear(0,1,5),linear(0,4,5)"': TRAINS,
    "vaekit train --model beta-tcvae --dataset mnist": "downloads MNIST",
    "vaekit train --model vq-vae": TRAINS,
    "vaekit sweep --search optuna --storage lr.journal --trials 50 --over lr=1e-4..1e-2:log --over latent_dim=2..64": (
        "trains 50 models"
    ),
    "vaekit bench --encoder cnn --batch-sizes 64,256 --compile on,off --plot speed.png": "compiles, which needs a C++ compiler",
}
"""Commands that run only until the first data would be read, when all flags and specs have been checked."""


def commands(block: str) -> list[str]:
    """Return the commands of vaekit in a block, without comments."""
    lines = [line.partition("#")[0].strip() for line in block.splitlines()]
    parts = [part.strip() for line in lines for part in re.split(r";|&&", line)]
    return [" ".join(part.split()) for part in parts if part.startswith("vaekit ")]


SHELL = [commands(text) for language, text in BLOCKS if language == "" and commands(text)]


class ReadsDataError(Exception):
    """Raised in place of reading data."""


def raise_reads_data(*_args: object, **_options: object) -> None:
    raise ReadsDataError


class InterruptAfterAnEpoch(Silent):
    def epoch(self, record: object) -> None:
        raise KeyboardInterrupt


@pytest.fixture(scope="session")
def binary_run(labelled_run, tmp_path_factory):
    """A run on binary pixels, which has a log-likelihood."""
    out = tmp_path_factory.mktemp("binary") / "run"
    return vaekit.train(labelled_run / "spec.yaml", binarize="threshold", out=out).path


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of colour pictures."""
    folder, rng = tmp_path_factory.mktemp("pictures") / "photos", np.random.default_rng(0)
    folder.mkdir()
    for number in range(30):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def grid_run(photos, tmp_path_factory):
    """A run of a small model with a grid of latents on these pictures."""
    network = {"kind": "ldm", "channels": (4, 4, 4)}
    given = {"encoder": network, "decoder": network, "latent_dim": 2, "latent_stride": 4, "likelihood": "l1", "epochs": 1}
    out = tmp_path_factory.mktemp("grid") / "run"
    return vaekit.train(
        **given, **{"dataset": "folder", "dataset.path": str(photos), "link": "identity", "pictures": "none"}, out=out
    ).path


@pytest.fixture
def place(labelled_run, binary_run, photos, tmp_path, monkeypatch):
    """A folder with the inputs of the README's commands: two small runs, RUN and OTHER, and data; measurements are short."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(binary_run, tmp_path / "runs" / "0001-digits-mlp")
    shutil.copytree(labelled_run, tmp_path / "OTHER")
    (tmp_path / "RUN").symlink_to("runs/0001-digits-mlp")
    (tmp_path / "photos").symlink_to(photos)
    torch.save(load_file(random_weights()), tmp_path / "weights.pth")
    (tmp_path / "b").mkdir()
    for file in ("a.png", "b/b.png"):
        Image.fromarray(np.full((8, 6), 60, np.uint8)).save(tmp_path / file)
    rng = np.random.default_rng(0)
    table = rng.standard_normal((200, 5), np.float32)
    table[::2, 1] = np.nan
    np.save(tmp_path / "table.npy", table)
    np.save(tmp_path / "counts.npy", rng.poisson(3, (200, 5)))
    np.save(tmp_path / "signals.npy", rng.standard_normal((200, 2, 9), np.float32))
    np.save(tmp_path / "volumes.npy", rng.integers(0, 256, (200, 6, 6, 6)).astype(np.uint8))
    monkeypatch.setattr(throughput, "throughput", shortened(throughput.throughput))
    monkeypatch.setattr(latency, "onnx_latency", shortened(latency.onnx_latency))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


def shortened(measure):
    """Return a function that always measures for a tenth of a second."""
    return lambda *args, **options: measure(*args, **{**options, "seconds": 0.1})


def run(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Run a command, and redirect its output like a shell."""
    words = shlex.split(command)[1:]
    words, file = (words[: words.index(">")], words[-1]) if ">" in words else (words, None)
    capsys.readouterr()
    code = main(words)
    out, err = capsys.readouterr()
    assert code == 0, f"{command}: {err}"
    if file is not None:
        Path(file).write_text(out, "utf-8")


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block[0])
def test_the_commands_of_a_block_run_in_their_order(block, place, capsys, monkeypatch, request):
    if any("--diffusers" in command for command in block):
        pytest.importorskip("diffusers")
        (place / "RUN").unlink()
        (place / "RUN").symlink_to(request.getfixturevalue("grid_run"))
        Image.fromarray(np.full((80, 96, 3), 60, np.uint8)).save(place / "large.png")
    if "vaekit resume" in block:
        with pytest.raises(KeyboardInterrupt):
            vaekit.train(place / "RUN" / "spec.yaml", reporter=InterruptAfterAnEpoch())
    if any("a.json" in command for command in block):
        run("vaekit bench --json > a.json", capsys)
    for command in block:
        if command not in NOT_RUN:
            run(command, capsys)
            continue
        if "optuna" in command:
            pytest.importorskip("optuna")
        with monkeypatch.context() as patch:
            for module in (vaekit.run, grid, throughput):
                patch.setattr(module, "load_splits", raise_reads_data)
            with pytest.raises(ReadsDataError):
                main([*shlex.split(command)[1:], "--debug"])


def test_every_command_that_is_not_run_is_still_in_the_readme():
    assert NOT_RUN.keys() <= {command for block in SHELL for command in block}
