"""A damaged, missing or odd file in a run folder stops only what needs it, in one sentence; what can be made again is made."""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import SMALL, Commands

pytestmark = pytest.mark.slow

USES = {
    "evaluate": ("evaluate", "run", "--device", "cpu", "--json"),
    "sample": ("sample", "run", "--num", "4", "--out", "out.png"),
    "reconstruct": ("reconstruct", "run", "0", "1", "--out", "out.png"),
    "traverse": ("traverse", "run", "--out", "out.png"),
    "report": ("report", "run", "--out", "out.html"),
    "compare": ("compare", "run", "other", "--out", "out.png"),
    "export": ("export", "run", "--onnx", "out.onnx"),
    "resume": ("resume", "run", "--quiet"),
}
NEEDED = ("spec.yaml", "model.safetensors", "checkpoints/best.safetensors", "checkpoints/last.safetensors")
EXPENDABLE = (
    *("evaluation.json", "metrics.jsonl", "training.gif", "samples/epoch-0002.png", "reconstructions/epoch-0002.png"),
    *("decoder.onnx", "decoder.json", "pictures/traversal.png", "checkpoints/.lock", "evaluation-validation.json"),
)
KNOWN = "report stops at a picture that cannot be read; writing where a link points to itself is a traceback"
LEGIBLE = {"evaluate", "sample", "reconstruct"}
"""Uses whose output has no clock and no path in it."""


def turned_into(kind: str) -> Callable[[Path, random.Random], None]:
    """Return what replaces a file by something that is no file."""

    def replace(file: Path, chance: random.Random) -> None:
        file.unlink()
        match kind:
            case "folder":
                file.mkdir()
            case "pipe":
                os.mkfifo(file)
            case "loop":
                file.symlink_to(file.name)
            case "link to nothing":
                file.symlink_to("nothing")

    return replace


def one_byte(file: Path, chance: random.Random) -> None:
    """Change a byte."""
    content = bytearray(file.read_bytes() or b" ")
    content[chance.randrange(len(content))] = chance.choice(b'\0\xff{"\n0')
    file.write_bytes(content)


DAMAGE: dict[str, Callable[[Path, random.Random], object]] = {
    "emptied": lambda file, chance: file.write_bytes(b""),
    "truncated": lambda file, chance: file.write_bytes(file.read_bytes()[: chance.randrange(1 + file.stat().st_size)]),
    "one byte": one_byte,
    "text": lambda file, chance: file.write_text(chance.choice(["[]", "{}", "null", "3", '"x"', "NaN", "{" * 9999, "\n\n", "{}\n{}"])),
    "gone": lambda file, chance: file.unlink(),
    "unreadable": lambda file, chance: file.chmod(0),
    **{kind: turned_into(kind) for kind in ("folder", "pipe", "loop", "link to nothing")},
}


@pytest.fixture(scope="module")
def work(commands: Commands, ground: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs that have every kind of file."""
    work = tmp_path_factory.mktemp("side") / "work"
    work.mkdir()
    shutil.copy(ground / "images.npy", work.parent)
    commands("train", *SMALL, "--pictures", "every:1", "--out", "run", cwd=work)
    commands("train", *SMALL, "--pictures", "none", "--seed", "1", "--out", "other", cwd=work)
    commands("export", "run", "--onnx", cwd=work)
    commands("traverse", "run", cwd=work)
    commands("evaluate", "run", "--split", "validation", cwd=work)
    (work / "run" / "checkpoints" / ".lock").touch()
    return work


def is_known(file: str, how: str, use: str) -> bool:
    """Whether a case is one of those that `KNOWN` describes."""
    picture = file.startswith(("samples/", "reconstructions/", "training."))
    return (use == "report" and picture and how not in {"gone", "unreadable"}) or (
        how == "loop" and file == "evaluation.json" and use in {"evaluate", "resume"}
    )


@pytest.mark.parametrize(
    "known", [False, pytest.param(True, marks=pytest.mark.xfail(strict=True, raises=AssertionError, reason=KNOWN))]
)
def test_a_file_in_any_state_stops_only_what_needs_it(
    known: bool, commands: Commands, work: Path, tmp_path: Path, size: Callable[[int], int], tally: Callable[..., None]
) -> None:
    chance, counts, faults = random.Random("side files"), Counter[str](), []
    shutil.copy(work.parent / "images.npy", tmp_path)

    def use(name: str, folder: Path) -> tuple[int, str, bytes]:
        done = commands(*USES[name], cwd=folder)
        made = next(folder.glob("out.*"), None)
        return done.code, done.err, done.out.encode() + (made.read_bytes() if made is not None else b"")

    expected = {}
    for name in USES:
        shutil.copytree(work, tmp_path / name)
        expected[name] = use(name, tmp_path / name)
    cases = [case for case in itertools.product([*NEEDED, *EXPENDABLE], DAMAGE, USES) if is_known(*case) == known]
    for number, (file, how, name) in enumerate(chance.sample(cases, size(len(cases)))):
        folder = tmp_path / str(number)
        shutil.copytree(work, folder)
        DAMAGE[how](folder / "run" / file, chance)
        try:
            code, err, made = use(name, folder)
            if file in EXPENDABLE and code != expected[name][0] and (name, file) != ("resume", "evaluation.json"):
                faults.append(f"{name} with {file} {how}: {code}, {err}")
            if code == 0 and name in LEGIBLE and made != expected[name][2]:
                faults.append(f"{name} with {file} {how}: differs {made[:300]!r}")
            counts["unharmed" if code == expected[name][0] else "refused"] += 1
        except AssertionError as error:
            faults.append(f"{name} with {file} {how}: {error}")
        shutil.rmtree(folder)
    tally(f"side files{', known faults' * known}", size(len(cases)), **counts, faults=len(faults))
    assert not faults, "\n".join(faults)
