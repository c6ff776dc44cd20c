"""A damaged, missing or odd file in a run folder stops only what needs it, with a short error; derived files are recreated."""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from harness import SMALL, Campaign, Commands, listed

pytestmark = pytest.mark.slow

USES = {
    "evaluate": "evaluate run --device cpu --json",
    "sample": "sample run --num 4 --out out.png",
    "reconstruct": "reconstruct run 0 1 --out out.png",
    "traverse": "traverse run --out out.png",
    "report": "report run --out out.html",
    "compare": "compare run other --out out.png",
    "export": "export run --onnx out.onnx",
    "resume": "resume run --quiet",
}
LEGIBLE = {"evaluate", "sample", "reconstruct"}
"""Uses whose output contains neither times nor paths."""
NEEDED = listed("spec.yaml | model.safetensors | checkpoints/best.safetensors | checkpoints/last.safetensors")
EXPENDABLE = listed("""
    evaluation.json | metrics.jsonl | training.gif | samples/epoch-0002.png | reconstructions/epoch-0002.png | decoder.onnx
    decoder.json | pictures/traversal.png | checkpoints/.lock | evaluation-validation.json
""")
TEXTS = ["[]", "{}", "null", "3", '"x"', "NaN", "{" * 9999, "\n\n", "{}\n{}"]


def instead(make: Callable[[Path], object], file: Path, chance: random.Random) -> None:
    """Replace a file with something that is not a file."""
    file.unlink()
    make(file)


def one_byte(file: Path, chance: random.Random) -> None:
    """Change a byte."""
    content = bytearray(file.read_bytes() or b" ")
    content[chance.randrange(len(content))] = chance.choice(b'\0\xff{"\n0')
    file.write_bytes(content)


DAMAGE: dict[str, Callable[[Path, random.Random], object]] = {
    "emptied": lambda file, chance: file.write_bytes(b""),
    "truncated": lambda file, chance: file.write_bytes(file.read_bytes()[: chance.randrange(1 + file.stat().st_size)]),
    "one byte": one_byte,
    "text": lambda file, chance: file.write_text(chance.choice(TEXTS)),
    "gone": lambda file, chance: file.unlink(),
    "unreadable": lambda file, chance: file.chmod(0),
    "folder": partial(instead, Path.mkdir),
    "pipe": partial(instead, os.mkfifo),
    "loop": partial(instead, lambda file: file.symlink_to(file.name)),
    "link to nothing": partial(instead, lambda file: file.symlink_to("nothing")),
}


@pytest.fixture(scope="module")
def runs(commands: Commands, work: Path) -> Path:
    """A folder with two runs that have every type of file."""
    commands("train", *SMALL, "--pictures", "every:1", "--out", "run", cwd=work)
    commands("train", *SMALL, "--pictures", "none", "--seed", "1", "--out", "other", cwd=work)
    for command in ("export run --onnx", "traverse run", "evaluate run --split validation"):
        commands(*command.split(), cwd=work)
    (work / "run" / "checkpoints" / ".lock").touch()
    return work


def test_a_damaged_file_affects_only_the_commands_that_need_it(campaign: Campaign, runs: Path) -> None:
    chance, counts, faults = random.Random("side files"), Counter[str](), []

    def use(name: str, folder: Path) -> tuple[int, str, bytes]:
        done = campaign.commands(*USES[name].split(), cwd=folder)
        made = next(folder.glob("out.*"), None)
        return done.code, done.err, done.out.encode() + (made.read_bytes() if made is not None else b"")

    expected = {name: use(name, shutil.copytree(runs, campaign.folder / name)) for name in USES}
    cases = [*itertools.product([*NEEDED, *EXPENDABLE], DAMAGE, USES)]
    chosen = chance.sample(cases, campaign.size(600))
    for number, (file, how, name) in enumerate(chosen):
        folder = shutil.copytree(runs, campaign.folder / str(number))
        DAMAGE[how](folder / "run" / file, chance)
        try:
            code, err, made = use(name, folder)
            writes = file == "evaluation.json" and name in {"evaluate", "resume"}  # where only a file is replaced
            assert code == expected[name][0] or file in NEEDED or writes, err
            assert code != 0 or name not in LEGIBLE or made == expected[name][2], made[:300]
            counts["unharmed" if code == expected[name][0] else "refused"] += 1
        except AssertionError as error:
            faults.append(f"{name} with {file} {how}: {error}")
        shutil.rmtree(folder)
    campaign.tally("side files", len(chosen), **counts, faults=len(faults))
    assert not faults, "\n".join(faults)
