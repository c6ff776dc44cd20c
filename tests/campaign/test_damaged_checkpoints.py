"""Damaged and forged model files are rejected or give the same results, without excessive memory or time."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import LONGEST_MESSAGE, SMALL, Campaign
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import vaekit
from vaekit.errors import VaekitError
from vaekit.store.checkpoint import digest_of

pytestmark = pytest.mark.slow

FILES = ("model.safetensors", "checkpoints/best.safetensors", "checkpoints/last.safetensors")
MEMORY, SECONDS = 2**30, 20
"""Maximum memory and time that a command may take beyond those for a valid file of a few kilobytes."""
ODD: list[Any] = [
    *(None, True, -1, 0, 10**12, 10**400, 1e308, -0.5, "", "x" * 10_000, "\x1b[31m", "../x", [], [[]], {}, {"kind": "mlp"}),
    *([1] * 100_000, json.loads("[" * 200 + "]" * 200)),
]
PROGRESS = ("data", "state", "versions", "optimizer.", "meter")
"""Metadata and tensors that describe the training, not the model."""


def with_header(header: Any, rest: bytes) -> bytes:
    """Return a safetensors file."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rest


def flip(content: bytes, chance: random.Random) -> bytes:
    """Flip a bit, in the tensors or anywhere."""
    header = 8 + int.from_bytes(content[:8], "little")
    place = chance.randrange(header if chance.random() < 0.7 else 0, len(content))
    return content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :]


def cut(content: bytes, chance: random.Random) -> bytes:
    """Truncate the file, remove a part, or append something."""
    start = chance.randrange(len(content))
    end = chance.choice([len(content), min(len(content), start + chance.randrange(1, 4096))])
    return chance.choice([content[:start] + content[end:], content + content[start:end], b""])


def splice(content: bytes, chance: random.Random) -> bytes:
    """Overwrite a piece with another, or with zeros or ones."""
    length = chance.randrange(1, len(content) // 4)
    source, target = (chance.randrange(len(content) - length) for _ in range(2))
    piece = chance.choice([content[source : source + length], bytes(length), b"\xff" * length])
    return content[:target] + piece + content[target + length :]


def relabel(content: bytes, chance: random.Random) -> bytes:
    """Change the description of the tensors in a header of the same length."""
    end = 8 + int.from_bytes(content[:8], "little")
    header, text = json.loads(content[8:end]), content[8:end].decode()
    one, other = chance.sample(sorted(header.keys() - {"__metadata__"}), 2)
    entry, place = header[one], chance.randrange(len(text))
    changes: list[dict[str, Any]] = [
        {one: header[other], other: entry},
        {one: entry | {"dtype": chance.choice(["F64", "F16", "I32", "U8", "BOOL", "X", 3])}},
        {one: entry | {"shape": chance.choice([entry["shape"][::-1], [*entry["shape"], 1], [-1], [2**62, 4], [0], "x", []])}},
        {one: entry | {"data_offsets": chance.choice([[0, 2**63], [-1, 4], [8, 4], header[other]["data_offsets"], []])}},
        {one + "x": entry},
        {"__metadata__": chance.choice([{}, None, [], {"vaekit-3": ""}, {"vaekit-3": "{}"}, {"vaekit-3": 3}])},
    ]
    edited = (text[:place] + chance.choice('0123456789ax{}[]",:\\') + text[place + 1 :]).encode()
    changed = with_header(header | chance.choice(changes), content[end:])
    return chance.choice([changed, changed, content[:8] + edited + content[end:]])


def make_up(content: bytes, chance: random.Random) -> bytes:
    """Write a custom header or a wrong header length."""
    huge = {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    heads: list[Any] = [huge, {}, [], None, "x", {"a": huge}, {"__metadata__": {"vaekit-3": "[" * 100_000}}, {"": {}}]
    length = chance.choice([0, 1, 2**31, 2**63, 2**64 - 1, len(content)])
    return chance.choice([with_header(chance.choice(heads), content[:64]), length.to_bytes(8, "little") + content[8:]])


def edit(metadata: Any, chance: random.Random, progress: bool) -> str:
    """Change the type or size of a metadata entry, or remove it."""
    inner, way = metadata, list[str]()
    while True:
        keys: list[Any] = sorted(inner) if isinstance(inner, dict) else [*range(len(inner))]
        key = chance.choice(keys if way else [key for key in keys if key.startswith(PROGRESS) == progress])
        way.append(str(key))
        if not (isinstance(inner[key], dict | list) and inner[key] and chance.random() < 0.85):
            break
        inner = inner[key]
    if chance.random() < 0.15:
        return f"{'.'.join(way)} without {inner.pop(key)!r:.40}"
    inner[key] = chance.choice(ODD)
    return f"{'.'.join(way)}: {inner[key]!r:.40}"


def recast(tensors: dict[str, Any], chance: random.Random, names: list[str]) -> str:
    """Change the dtype, shape, values or name of a tensor, or remove it."""
    tensor = tensors.pop(name := chance.choice(names))
    others = [
        *(tensor.double(), tensor.half(), tensor * torch.nan, tensor / 0, tensor.reshape(-1).clone(), torch.zeros(0)),
        *(torch.zeros(tensor.shape, dtype=torch.uint8), torch.zeros((*tensor.shape, 3)), None),
    ]
    if (other := chance.choice(others)) is not None:
        tensors[chance.choice([name, name, "x", "0", "optimizer.9.9.9", "optimizer.x", "meter", name + "."])] = other
    return f"{name}: {other!r:.40}"


def opened(path: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    """Return a file's metadata, without the digest, and its tensors."""
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["vaekit-3"])
    del metadata["digest"]
    return metadata, load_file(path)


def seal(path: Path, metadata: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Write a file with a matching digest."""
    digest = digest_of(json.loads(json.dumps(metadata)), tensors)
    save_file(tensors, path, {"vaekit-3": json.dumps({**metadata, "digest": digest})})


def forge(path: Path, chance: random.Random, progress: bool) -> str:
    """Rewrite a file with a change."""
    metadata, tensors = opened(path)
    names = [name for name in sorted(tensors) if name.startswith(PROGRESS) == progress]
    what = recast(tensors, chance, names) if names and chance.random() < 0.4 else edit(metadata, chance, progress)
    seal(path, metadata, tensors)
    return what


def resumed(run: Path) -> Any:
    """Resume a run that lacks its evaluation."""
    (run / "evaluation.json").unlink()
    return vaekit.resume(run).evaluation()


USES: dict[str, Callable[[Path], Any]] = {
    "load": lambda run: {name: tensor.numpy().tobytes() for name, tensor in vaekit.load(run).state_dict().items()},
    "sample": lambda run: vaekit.Run(run).sample(4, out="sample.png").read_bytes(),
    "evaluate": lambda run: vaekit.Run(run).evaluate(device="cpu"),
    "resume": resumed,
}


def too_long(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def assault(run: Path, kind: str, cases: int) -> tuple[dict[str, int], list[str]]:
    """Damage or forge files and use them; return counts and failures."""
    warnings.simplefilter("ignore")
    os.chdir(run.parent)
    signal.signal(signal.SIGALRM, too_long)
    case, chance = Path("case"), random.Random(kind)
    counts, faults = Counter[str](), list[str]()

    def use(name: str) -> Any:
        shutil.rmtree("again", ignore_errors=True)
        shutil.copytree(case, "again")
        signal.alarm(SECONDS)
        try:
            return USES[name](Path("again"))
        finally:
            signal.alarm(0)

    shutil.copytree(run, case)
    expected = {name: use(name) for name in USES}
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    for _ in range(cases):
        shutil.copytree(run, case, dirs_exist_ok=True)
        whole = (file := case / chance.choice(FILES)).read_bytes()
        damage = chance.choice([flip, flip, flip, cut, splice, relabel, relabel, make_up])
        if kind == "damaged":
            file.write_bytes(damage(whole, chance))
        what = damage.__name__ if kind == "damaged" else forge(file, chance, kind == "forged progress")
        refused = False
        for name in USES:
            try:
                result = use(name)
                assert kind != "damaged" or result == expected[name], "another result"
            except VaekitError as error:
                refused = True
                faults += [f"{file}, {what}, {name}: {size} characters"] if (size := len(str(error))) >= LONGEST_MESSAGE else []
            except BaseException as error:
                faults.append(f"{file}, {what}, {name}: {error!r:.200}")
        counts["refused" if refused else "harmless"] += 1
        if damage is flip and kind == "damaged" and not refused:
            faults.append(f"{file}: a flipped bit was not noticed")
    return dict(counts), faults


@pytest.mark.parametrize(
    ("kind", "cases"),
    [("damaged", 700), ("forged model", 200), ("forged progress", 200)],
)
def test_altered_files_are_detected(kind: str, cases: int, campaign: Campaign) -> None:
    folder = campaign.place("work")
    campaign.commands("train", *SMALL, "--pictures", "none", "--out", "run", cwd=folder)
    counts, faults = campaign.commands.call(assault, folder / "run", kind, campaign.size(cases))
    campaign.tally(f"checkpoints, {kind}", campaign.size(cases), **counts, faults=len(faults))
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(("file", "command"), [(FILES[0], "sample run"), (FILES[1], "evaluate run --device cpu")])
def test_non_finite_weights_are_refused(file: str, command: str, campaign: Campaign) -> None:
    folder = campaign.place("work")
    campaign.commands("train", *SMALL, "--pictures", "none", "--out", "run", cwd=folder)
    metadata, tensors = opened(folder / "run" / file)
    seal(folder / "run" / file, metadata, {name: tensor * torch.nan for name, tensor in tensors.items()})
    assert campaign.commands(*command.split(), cwd=folder).code == 1
