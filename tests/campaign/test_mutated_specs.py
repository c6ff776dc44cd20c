"""Spec files and options in any state quickly give a spec or a short error."""

from __future__ import annotations

import copy
import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from harness import LONGEST_MESSAGE, Campaign
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vaekit.errors import VaekitError
from vaekit.roles import REGISTRIES
from vaekit.specs.models import RunSpec, dump_spec, read_spec
from vaekit.specs.options import OptionTable, build_spec
from vaekit.specs.resolve import resolve
from vaekit.specs.text import value_text

pytestmark = pytest.mark.slow

SLOWEST = 5.0
"""Maximum processor time for a spec in seconds."""

COMPLETE = [
    build_spec({}, {}),
    build_spec({}, {"encoder": "cnn", "decoder": "bilinear", "loss": ["mse", "tc"], "dataset": "folder", "path": "photos"}),
    build_spec({}, {"loss": "capacity", "likelihood": "bce", "binarize": "static", "logger": "tensorboard", "pictures": "1,2"}),
]
BASES: list[Any] = [
    *(spec.model_dump(mode="json") for spec in COMPLETE),
    {"model": {"encoder": "resnet", "loss": ["beta", {"kind": "gaussian", "sigma": 0.1}]}, "train": {"seed": 3}},
    {"data": {"dataset": {"kind": "array", "path": "x.npy"}, "augment": {"rotate": 5}}},
]
TEXTS = [yaml.safe_dump(base, sort_keys=False).encode() for base in BASES] + [json.dumps(BASES[0]).encode()]
SNIPPETS = [
    *b"""&a |*a|<<: *a|!!float |!!python/name:os.system |!x |? |- |: |{|}|[|]|>-|---|...|%YAML 9.9|'|"|#|~|.nan|-.inf|0o777|1_000
    |1e999|2001-01-01|=|@|`|190:20:30|yes|null|..""".split(b"|"),
    *(b"|\n", b"\t", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\r", b"9" * 400, b"0x" + b"f" * 300),
    *(b"[" * 100, b"{a: " * 100, b"- " * 100, b"\n" * 100),
]
WORDS = ["", "none", "auto", "mlp", "cnn", "kl", "beta", "every:0", "every:5", "1,2,3", "\x00", "\x1b[31m", "é" * 99]
NUMBERS = [0, -1, 2**31, 2**63, 2**64, 10**12, 10**400, -(10**400), 0.0, -0.0, 5e-324, 1e308]

numbers = st.integers() | st.sampled_from(NUMBERS) | st.floats()
words = st.sampled_from(WORDS) | st.text() | st.text(st.characters(codec="ascii"), max_size=4000)
odd = st.recursive(
    st.none() | st.booleans() | numbers | words | st.dates(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words | st.integers(), inner, max_size=4),
    max_leaves=8,
)
deep = st.integers(1, 40).map(lambda depth: json.loads("[" * depth + "1" + "]" * depth))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """All containers in plain data, with each of their keys."""
    for key in [*value] if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


@st.composite
def specs(draw: st.DrawFn) -> Any:
    """Valid plain data in which something was replaced, removed, added, renamed or moved."""
    data = copy.deepcopy(draw(st.sampled_from(BASES)))
    for _ in range(draw(st.integers(1, 3))):
        found = [*places(data)]
        if not found:
            break
        inner, key = found[draw(st.integers(0, len(found) - 1))]
        match draw(st.sampled_from(["replace", "replace", "remove", "add", "rename", "move"])):
            case "replace":
                inner[key] = draw(odd | deep)
            case "move":
                inner[key] = copy.deepcopy(data)
            case "remove":
                del inner[key]
            case _ if isinstance(inner, list):
                inner.insert(key, draw(odd))
            case "add":
                inner[draw(words)] = draw(odd)
            case "rename":
                inner[draw(words)] = inner.pop(key)
    return data


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """The text of a valid spec with pieces removed, repeated or inserted, bits flipped and lines duplicated."""
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 6))):
        place, length = draw(st.integers(0, len(text))), draw(st.integers(0, 60))
        before, within, after = text[:place], text[place : place + length], text[place + length :]
        pieces = st.sampled_from([b"", within + within, *SNIPPETS])
        text = draw(st.sampled_from([before, before + draw(pieces) + after, before + draw(pieces) + within + after]))
        if text and draw(st.booleans()):
            place = draw(st.integers(0, len(text) - 1))
            text = text[:place] + bytes([text[place] ^ (1 << draw(st.integers(0, 7)))]) + text[place + 1 :]
        if draw(st.booleans()):
            lines = text.splitlines(keepends=True)
            number = draw(st.integers(0, len(lines)))
            text = b"".join([*lines[:number], *lines[number : number + 1] * 2, *lines[number + 1 :]])
    return text


TABLES = [OptionTable(base, {}) for base in BASES]
NAMES = sorted({name for table in TABLES for name in table.index})
VALID = [
    *((role, kind) for components in REGISTRIES for role, kind in [(components.role, kind) for kind in components.kinds()]),
    *((option.names[0], value_text(option.default)) for table in TABLES for option in table.options if option.names),
]
PLAUSIBLE = sorted({value for _, value in VALID} | {"1", "0.5", "8,8", "1e-3", "2,4,x", "-1"})
values = st.sampled_from(PLAUSIBLE) | st.lists(st.sampled_from(PLAUSIBLE), max_size=3) | words | numbers.map(str)
valid, other = st.sampled_from(VALID), st.tuples(st.sampled_from(NAMES) | words, values)
options = st.lists(st.one_of(valid, valid, valid, other), max_size=3).map(dict)


@pytest.mark.parametrize(("kind", "cases"), [("plain data", 4_000), ("text", 3_500), ("options", 2_500)])
def test_any_spec_is_read_or_refused(kind: str, cases: int, campaign: Campaign) -> None:
    """Each gives a spec that survives a round trip, or a short error of vaekit's."""
    file, counts = campaign.folder / "spec.yaml", Counter[str]()

    def of_text(text: bytes) -> RunSpec:
        file.write_bytes(text)
        return resolve(read_spec(file))

    strategy, judge = {
        "plain data": (specs(), lambda data: of_text(yaml.safe_dump(data, allow_unicode=True).encode("utf-8", "surrogatepass"))),
        "text": (texts(), of_text),
        "options": (options, lambda given: build_spec({}, given)),
    }[kind]

    @settings(
        max_examples=campaign.size(cases),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[*HealthCheck],
        report_multiple_bugs=False,
    )
    @given(strategy)
    def judged(case: Any) -> None:
        began = time.process_time()
        try:
            spec = judge(case)
        except VaekitError as error:
            counts["refused"] += 1
            assert len(str(error)) < LONGEST_MESSAGE  # noqa: PT017 - one outcome of two
        else:
            counts["accepted"] += 1
            assert of_text(dump_spec(spec).encode()) == spec
        assert time.process_time() - began < SLOWEST

    judged()
    campaign.tally(f"specs, {kind}", counts.total(), **counts)


@pytest.mark.parametrize("place", [("model", "encoder"), ("model",)])
def test_a_large_value_is_not_repeated(place: tuple[str, ...]) -> None:
    data: Any = ["x" * 1_000] * 1_000
    for key in reversed(place):
        data = {key: data}
    with pytest.raises(VaekitError) as caught:
        resolve(data)
    assert len(str(caught.value)) < LONGEST_MESSAGE
