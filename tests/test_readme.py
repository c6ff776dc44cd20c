"""The README and the pages of the site are correct: their code runs as written, and everything they name exists."""

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
import yaml
from PIL import Image
from safetensors.torch import load_file
from small import random_weights

import vaekit
from vaekit.benchmark import latency, throughput
from vaekit.cli import main
from vaekit.specs import zoo
from vaekit.sweeps import grid
from vaekit.training.progress import Silent

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / ".github").glob("*.md")), *sorted((ROOT / "examples" / "site").rglob("*.md"))]
PAGES = {str(file.relative_to(ROOT)): file.read_text("utf-8") for file in FILES}
"""The text of each page, by its path."""
README = PAGES["README.md"]
HEADINGS = ["vaekit", "Five minutes", "In Python", "Documentation"]
FENCED = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = [(page, kind.strip(), text) for page, source in PAGES.items() for kind, text in FENCED.findall(source)]
"""Page, kind and text of each fenced block."""
PROSE = {page: FENCED.sub("", text) for page, text in PAGES.items()}
COMPONENTS = "examples/site/components.md"


def headings(page: str) -> list[str]:
    """Return the headings of a page."""
    return re.findall(r"^#+ (.*)$", PROSE[page], re.MULTILINE)


def block_below(page: str, heading: str, kind: str) -> str:
    """Return the only block of a kind below a heading."""
    found = re.search(rf"^##? {re.escape(heading)}\n(.*?)(?=^##? |\Z)", PAGES[page], re.MULTILINE | re.DOTALL)
    assert found is not None, f"{page} has no section {heading!r}"
    (block,) = re.findall(rf"^```{kind}\n(.*?)^```", found[1], re.MULTILINE | re.DOTALL)
    return block


# What they name


def test_the_front_page_is_short_and_has_the_linked_headings():
    assert headings("README.md") == HEADINGS
    assert len(README.splitlines()) <= 120


def test_every_page_is_in_the_table_of_contents_of_the_front_page():
    pages = {page for page in PAGES if page.startswith("examples/site/")}
    included = {f"examples/site/{name}.md" for name in ("index", "benchmarks", "changelog", "citation", "contributing")}
    assert pages - included == {page for page in pages if f"]({page})" in README}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_or_a_heading(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", PROSE[page]):
        file, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / file).resolve() if file else ROOT / page
        assert target.exists(), link
        places = headings(str(target.relative_to(ROOT))) if anchor else []
        assert anchor == "" or anchor in {heading.lower().replace(" ", "-") for heading in places}, link


@pytest.mark.parametrize("page", PAGES)
def test_every_path_of_the_repository_exists(page):
    top = "|".join(re.escape(path.name) for path in ROOT.iterdir() if path.is_dir())
    spans = re.findall(r"`([^`]+)`", PROSE[page])
    paths = [path for span in spans for path in re.findall(rf"(?<![\w/])(?:{top})/[\w./-]*", span)]
    assert page != "README.md" or "vaekit/components/datasets/digits.LICENSE.md" in paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_component_that_they_name_with_a_flag_exists():
    registries = {registry.role: registry for registry in vaekit.roles.REGISTRIES}
    roles = "encoder|decoder|loss|dataset|logger|posterior|prior|likelihood|condition"
    named = [found for text in PAGES.values() for found in re.findall(rf"--({roles}) (\w+)", text)]
    assert len(named) > 100
    unknown = [(role, kind) for role, kind in named if not kind.isupper() and kind not in registries[role]]
    wrong = {("loss", "vae_gam")}  # whose message troubleshooting shows
    assert set(unknown) <= {("encoder", "mine"), *wrong, *(("loss", kind) for kind in vaekit.likelihoods.kinds())}


def test_every_model_that_they_name_exists():
    named = {name for text in PAGES.values() for name in re.findall(r"--model ([a-z][\w-]*)", text)}
    plugins = {file.stem for file in ROOT.glob("plugins/*/src/*/*.yaml")}
    assert named - {*zoo.names(), *plugins} == set()


def test_the_citation_and_the_changelog_name_this_version():
    citation = yaml.safe_load((ROOT / ".github" / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == vaekit.__version__
    assert {"cff-version", "message", "title", "authors", "license"} <= citation.keys()
    assert headings(".github/CHANGELOG.md")[1] == vaekit.__version__


def test_every_block_is_run_or_built():
    """A ``terminal`` runs while the site is built, the other directives are built, and the rest runs below."""
    unknown = [
        (page, kind) for page, kind, _ in BLOCKS if kind not in {"", "shell", "console", "python", "toml"} and kind[0] != "{"
    ]
    assert unknown == []
    assert [page for page, kind, _ in BLOCKS if kind == "console"] == ["README.md"] * 3
    assert [page for page, kind, _ in BLOCKS if kind == "toml"] == [COMPONENTS]


# Python

PYTHON = [(page, text) for page, kind, text in BLOCKS if kind == "python"]


@pytest.mark.usefixtures("place", "forgotten_components")
@pytest.mark.parametrize(("page", "code"), PYTHON, ids=[page for page, _ in PYTHON])
def test_python_blocks_run_unchanged(page, code, tmp_path):
    before = set(tmp_path.rglob("model.safetensors"))
    exec(compile(code, page, "exec"), {"__name__": "__main__"})
    if re.search(r"vaekit\.(train|sweep)\(", code):
        assert set(tmp_path.rglob("model.safetensors")) > before


def test_the_same_backbone_as_a_package_is_found_by_its_entry_point(tmp_path):
    code = block_below(COMPONENTS, "Write a backbone in 20 lines", "python")
    announced = block_below(COMPONENTS, "Write a backbone in 20 lines", "toml")
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
    'vaekit train --encoder cnn --loss beta --beta "linear(0, 4, 10)"': TRAINS,
    "vaekit train --dataset folder --dataset.path photos --dataset.size 64": TRAINS,
    "vaekit train --dataset folder --dataset.path photos --dataset.size 128 --encoder resnet --batch-size 512 --out faces": (
        "needs four GPUs"
    ),
    "vaekit train --encoder resnet --batch-size 2048 --out digits": "needs two machines",
    "vaekit sweep --search optuna --storage lr.journal --trials 200 --over lr=1e-4..1e-2:log": "trains 200 models",
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
    "vaekit train --epochs 200 --patience 10": TRAINS,
    "vaekit train --max-time 2h --name baseline --tag paper": TRAINS,
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


def lines_of(block: str) -> list[str]:
    """Return the commands of a block, without comments."""
    lines = [line.partition("#")[0].strip() for line in block.splitlines()]
    return [" ".join(part.split()) for line in lines for part in re.split(r";|&&", line) if part.strip()]


def commands(block: str) -> list[str]:
    """Return the commands of vaekit in a block; what torchrun launches is one."""
    found = [re.sub(r"^torchrun .* -m vaekit ", "vaekit ", line) for line in lines_of(block)]
    return [line for line in found if line.startswith("vaekit ")]


SHELL = [commands(text) for _, kind, text in BLOCKS if kind in {"", "shell"} and commands(text)]
CONSOLE = [text for _, kind, text in BLOCKS if kind == "console"]


def test_other_commands_are_those_of_continuous_integration():
    others = {line for _, kind, text in BLOCKS if kind in {"", "shell"} for line in lines_of(text)}
    others = {line.replace(" -e ", " ") for line in others if not line.startswith(("vaekit ", "torchrun "))}
    run = (ROOT / ".ci" / "run").read_text("utf-8").replace(" -q ", " ")
    assert len(others) > 4
    assert [line for line in others if line.removesuffix(" site") not in run] == []


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


def pattern(block: str) -> str:
    """Return what a terminal must show: any numbers in place of a block's, and anything in place of an ellipsis."""
    return re.escape(measured(block)).replace("…\\\n", "(.*\n)*?").replace("…", ".*")


def measured(text: str) -> str:
    """Return a text without its numbers, the device, and the precision that it chooses."""
    text = re.sub(r"cuda[^,]*|mps", "cpu", text).replace("bf16", "fp32")
    return re.sub(r"-?\d[\d,.:]*(e[+-]\d+)?", "0", re.sub(r" +", " ", text))


def test_the_tour_of_the_front_page_prints_what_it_says(place, capsys):
    for block in CONSOLE:
        shown = ""
        for command in re.findall(r"^\$ (.*)$", block, re.MULTILINE):
            capsys.readouterr()
            assert main(shlex.split(command)[1:]) == 0
            shown += f"$ {command}\n{''.join(capsys.readouterr())}"
        assert re.fullmatch(pattern(block), measured(shown)), shown


def test_every_command_that_is_not_run_is_still_in_a_page():
    assert NOT_RUN.keys() <= {command for block in SHELL for command in block}
