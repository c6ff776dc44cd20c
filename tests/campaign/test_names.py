"""Unexpected names and types of files: a command works with them or rejects them, and replaces only regular files."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import socket
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import SMALL, Campaign, Commands, Done, listed
from PIL import Image

pytestmark = pytest.mark.slow

NAMES = [
    *listed("""
        😀 | größe | -x | --help | - | a. | ... | ~
        con | C++ | C# | a b | ' | " | [/red]x | [bold] | {0} | %s | $HOME | * | [a] | ?
        a:b | a\\b | a=b | a,b | none | 0 | 1e5 | spec.yaml | #x | &a | !x | null | true | .hidden
    """),
    *(["a\nb", "a\x1b[31mb", "a\rb", "\x7f", "größe", "a�b", "\u202eevil", "\u2028", "a|b"]),
    *(" a ", "a\tb", "x" * 200, "é" * 110, "x" * 300),
]


class Place:
    """A folder in which commands run.

    Args:
        commands: Runs them.
        folder: The folder; the images of other tests are beside it.
        run: A run, for commands that need one.
    """

    def __init__(self, commands: Commands, folder: Path, run: Path) -> None:
        self.commands, self.folder = commands, folder
        shutil.copytree(run, folder / "run")

    def __call__(self, *arguments: str) -> Done:
        return self.commands(*arguments, cwd=self.folder)

    def train(self, *arguments: str) -> int:
        return self("train", *SMALL, "--epochs", "1", "--pictures", "none", "--quiet", *arguments).code

    def train_on_photos(self) -> int:
        return self.train("--dataset", "folder", "--dataset.path", "photos", "--batch-size", "8", "--out", "new")


def write_image(path: Path, number: int) -> None:
    """Write a picture of 8×8 pixels."""
    values = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    with path.open("wb") as file:
        Image.fromarray(values).save(file, "png")


def write_classes(folder: Path, name: str) -> None:
    """Write 36 pictures of three classes, one of them with a given name."""
    for number, label in enumerate([name, "other", "third"] * 12):
        (folder / label).mkdir(parents=True, exist_ok=True)
        write_image(folder / label / f"{number}.png", number)


def a_run(name: str, place: Place) -> bool:
    if place.train("--pictures", "every:1", f"--out={name}") != 0:
        return False
    codes = [place(command, f"./{name}").code for command in ("evaluate", "sample", "report", "resume")]
    assert codes == [0, 0, 0, 2]
    assert place("compare", f"./{name}", "run").code == 0
    assert place("train", f"./{name}/spec.yaml", "--out", "again").code == 0
    model, again = (place.folder / path / "model.safetensors" for path in (name, "again"))
    assert model.read_bytes() == again.read_bytes()
    return True


def a_class(name: str, place: Place) -> bool:
    write_classes(place.folder / "photos", name)
    assert place.train_on_photos() == 0
    assert place("variations", "new", "--per-class", "2", "--out", "varied").code == 0
    assert len([*(place.folder / "varied").glob("*/*.png")]) == 6
    assert place("scatter", "new", "--out", "scatter.png").code == 0
    return True


def an_image(name: str, place: Place) -> bool:
    write_classes(place.folder / "photos", "first")
    write_image(place.folder / "photos" / "first" / f"{name}.png", 99)
    assert place.train_on_photos() == 0
    assert place("reconstruct", "new", f"photos/first/{name}.png", "--out", "r.png").code == 0
    return True


def a_key(name: str, place: Place) -> bool:
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(place.folder / "of.npz", **{name: images, "other": images[:, :4]})  # type: ignore[arg-type]
    trained = place.train("--dataset.path", "of.npz", f"--dataset.key={name}", "--out", "new")
    return trained == 0 and place("evaluate", "new").code == 0


def a_label(name: str, place: Place) -> bool:
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(place.folder / "of.npz", images=images, labels=np.array([name.replace("\udcff", "\xff"), "b", "c"] * 20))
    assert place.train("--dataset.path", "of.npz", "--out", "new") == 0
    assert place("variations", "new", "--per-class", "2", "--out", "varied").code == 0
    return place("scatter", "new", "--out", "scatter.png").code == 0


def an_output(name: str, place: Place) -> bool:
    commands = {"sample run --out": ".png", "report run --out": ".html", "export run --onnx": ".onnx"}
    for command, suffix in commands.items():
        *words, flag = command.split()
        if place(*words, f"{flag}={name}{suffix}").code != 0:
            return False
        assert (place.folder / f"{name}{suffix}").is_file()
    return True


PLACES = {
    "run folder": a_run,
    "class": a_class,
    "image file": an_image,
    "array key": a_key,
    "label": a_label,
    "output": an_output,
}


@pytest.fixture(scope="module")
def run(commands: Commands, work: Path) -> Path:
    """A run."""
    commands("train", *SMALL, "--out", "run", cwd=work)
    return work / "run"


@pytest.mark.parametrize("where", PLACES)
def test_names(where: str, campaign: Campaign, run: Path) -> None:
    chance, counts, faults = random.Random(where), Counter[str](), []
    names = [name for name in NAMES if where != "class" or name[0] != "."]  # see `test_a_hidden_class_is_read_or_named`
    for number, name in enumerate(chance.sample(names, campaign.size(len(names)))):
        try:
            works = PLACES[where](name, Place(campaign.commands, campaign.place(number), run))
            counts["worked" if works else "refused"] += 1
        except (OSError, UnicodeError):  # an error of this test, which cannot create such a name here
            counts["not_allowed_here"] += 1
        except AssertionError as error:
            faults.append(f"{name[:20]!r}: {str(error)[-300:]!r}")
    campaign.tally(f"names, {where}", campaign.size(len(names)), **counts, faults=len(faults))
    assert not faults, "\n".join(faults)


def test_a_hidden_class_is_read_or_named(campaign: Campaign, run: Path) -> None:
    place = Place(campaign.commands, campaign.place("work"), run)
    write_classes(place.folder / "photos", ".hidden")
    done = place("train", *SMALL, "--dataset", "folder", "--dataset.path", "photos", "--batch-size", "8", "--out", "new")
    assert done.code == 0, done
    assert "28 train" in done.out or "hidden" in done.out + done.err


def bind(path: Path) -> None:
    """Make a socket."""
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as made:  # the whole path may be too long
        made.bind(path.name)


ODD: dict[str, Callable[[Path], Any]] = {
    "pipe": os.mkfifo,
    "device": lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3)),
    "socket": bind,
    "folder": Path.mkdir,
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "link to a device": lambda path: path.symlink_to("/dev/null"),
    "link to a file": lambda path: path.symlink_to(shutil.copy(__file__, path.parent)),
    "without permissions": lambda path: path.touch(0),
}
USES = {
    "write a run": "train {small} --pictures none --quiet --out odd",
    "write a picture": "sample run --out odd.png",
    "write a page": "report run --out odd.html",
    "write a model": "export run --onnx odd.onnx",
    "write a comparison": "compare run run2 --out odd.png",
    "read a spec": "train odd.yaml --epochs 1 --out again",
    "read data": "train {small} --dataset.path odd.npy --out again",
    "read pictures": "train --dataset folder --dataset.path odd --out again",
    "read a picture": "reconstruct run odd.png",
    "read a run": "evaluate odd",
    "read a model": "verify odd.onnx",
}


def test_irregular_files(campaign: Campaign, run: Path) -> None:
    chance, counts, faults = random.Random("files"), Counter[str](), []
    cases = [*itertools.product(USES, ODD)]
    chosen = chance.sample(cases, campaign.size(len(cases)))
    for number, (use, kind) in enumerate(chosen):
        place = Place(campaign.commands, campaign.place(number), run)
        shutil.copytree(run, place.folder / "run2")
        command = USES[use].format(small=" ".join(SMALL)).split()
        odd = place.folder / next(word for word in command if word.startswith("odd"))
        try:
            ODD[kind](odd)
        except OSError:
            counts["not_allowed_here"] += 1
            continue
        before = odd.lstat()
        try:
            code, after = place(*command).code, odd.lstat()
            assert stat.S_IFMT(after.st_mode) == stat.S_IFMT(before.st_mode)
            assert stat.S_ISREG(after.st_mode) or (after.st_ino, after.st_rdev) == (before.st_ino, before.st_rdev)
            counts["worked" if code == 0 else "refused"] += 1
        except AssertionError as error:
            faults.append(f"{use}, {kind}: {str(error)[-300:]!r}")
    campaign.tally("no regular files", len(chosen), **counts, faults=len(faults))
    assert not faults, "\n".join(faults)
