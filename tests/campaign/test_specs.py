"""Spec files and options in any state become a spec or a short error, soon."""

from __future__ import annotations

import copy
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import LONGEST_MESSAGE, brief
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vaekit.errors import VaekitError
from vaekit.specs.models import RunSpec, dump_spec, read_spec
from vaekit.specs.options import OptionTable, build_spec
from vaekit.roles import REGISTRIES
from vaekit.specs.resolve import resolve
from vaekit.specs.text import value_text

pytestmark = pytest.mark.slow

SLOWEST = 5.0
"""Most seconds of computing that a spec may take."""
Path_ = tuple[str | int, ...]

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
    *(b"&a ", b"*a", b"<<: *a\n", b"!!float ", b"!!python/name:os.system ", b"!x ", b"? ", b"- ", b": ", b"{", b"}", b"["),
    *(b"]", b"|\n", b">-\n", b"\t", b"\0", b"\xff", b"\xef\xbb\xbf", "\u2028".encode(), b"---\n", b"...\n", b"%YAML 9.9\n"),
    *(b"'", b'"', b"#", b"~", b".nan", b"-.inf", b"0o777", b"1_000", b"1e999", b"9" * 400, b"2001-01-01", b"=", b"@", b"`"),
    *(b"[" * 100, b"{a: " * 100, b"- " * 100, b"\n" * 100, b"190:20:30", b"0x" + b"f" * 300, b"yes", b"null", b"..", b"\r"),
]

numbers = st.one_of(
    st.integers(),
    st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**12, 10**400, -(10**400), 0.0, -0.0, 5e-324, 1e308]),
    st.floats(),
)
words = st.one_of(
    st.sampled_from(["", "none", "auto", "mlp", "cnn", "kl", "beta", "every:0", "every:5", "1,2,3", "\x00", "\x1b[31m", "é" * 99]),
    st.text(),
    st.text(st.characters(codec="ascii"), max_size=4000),
)
leaves = st.one_of(st.none(), st.booleans(), numbers, words, st.dates())
odd = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.one_of(words, st.integers()), inner, max_size=4)),
    max_leaves=8,
)
deep = st.integers(1, 300).map(lambda depth: json.loads("[" * depth + "1" + "]" * depth))


def paths(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """The paths of everything within plain data."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from paths(inner, (*path, key))


@st.composite
def specs(draw: st.DrawFn) -> Any:
    """Valid plain data of which something was replaced, removed, added, renamed or moved."""
    data = copy.deepcopy(draw(st.sampled_from(BASES)))
    for _ in range(draw(st.integers(1, 3))):
        found = list(paths(data))
        if not found:
            break
        *way, last = draw(st.sampled_from(found))
        inner = data
        for key in way:
            inner = inner[key]
        what = draw(st.sampled_from(["replace", "replace", "remove", "add", "rename", "move"]))
        if what == "replace":
            inner[last] = draw(st.one_of(odd, deep))
        elif what == "move":
            inner[last] = copy.deepcopy(data)
        elif what == "remove":
            del inner[last]
        elif isinstance(inner, list):
            inner.insert(int(last), draw(odd))
        elif what == "add":
            inner[draw(words)] = draw(odd)
        else:
            inner[draw(words)] = inner.pop(last)
    return data


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """The text of a valid spec with damage."""
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 6))):
        place, length = draw(st.integers(0, len(text))), draw(st.integers(0, 60))
        before, within, after = text[:place], text[place : place + length], text[place + length :]
        text = draw(
            st.sampled_from(
                [before, before + after, before + within + within + after, before + draw(st.sampled_from(SNIPPETS)) + within + after]
            )
        )
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
values = st.one_of(st.sampled_from(PLAUSIBLE), st.lists(st.sampled_from(PLAUSIBLE), max_size=3), words, numbers.map(str))
options = st.lists(
    st.one_of(*[st.sampled_from(VALID)] * 4, st.tuples(st.one_of(st.sampled_from(NAMES), words), values)), max_size=3
).map(dict)


def hunt(strategy: Any, judge: Callable[[Any], RunSpec], examples: int, folder: Path) -> Counter[str]:
    """Try many inputs: each gives a spec that is written and read back as itself, or an error of vaekit's in few words."""
    counts, file = Counter[str](), folder / "again.yaml"

    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=[*HealthCheck], report_multiple_bugs=False
    )
    @given(strategy)
    def one(case: Any) -> None:
        began = time.process_time()
        counts["tried"] += 1
        try:
            spec = judge(case)
        except VaekitError as error:
            counts["refused"] += 1
            assert brief(error)
        else:
            counts["accepted"] += 1
            file.write_text(dump_spec(spec), "utf-8")
            assert resolve(read_spec(file)) == spec
        assert time.process_time() - began < SLOWEST

    one()
    return counts


@pytest.mark.parametrize(("kind", "cases"), [("plain data", 4_000), ("text", 3_500), ("options", 2_500)])
def test_any_spec_is_read_or_refused(
    kind: str, cases: int, tmp_path: Path, size: Callable[[int], int], tally: Callable[..., None]
) -> None:
    file = tmp_path / "spec.yaml"

    def of_text(text: bytes) -> RunSpec:
        file.write_bytes(text)
        return resolve(read_spec(file))

    def of_data(data: Any) -> RunSpec:
        return of_text(yaml.safe_dump(data, allow_unicode=True).encode("utf-8", "surrogatepass"))

    strategy, judge = {
        "plain data": (specs(), of_data),
        "text": (texts(), of_text),
        "options": (options, lambda given: build_spec({}, given)),
    }[kind]
    counts = hunt(strategy, judge, size(cases), tmp_path)
    tally(f"specs, {kind}", counts.pop("tried"), **counts)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="these errors repeat the whole value")
@pytest.mark.parametrize("place", [("model", "encoder"), ("model",)])
def test_a_large_value_is_not_repeated(place: tuple[str, ...]) -> None:
    data: Any = ["x" * 1_000] * 1_000
    for key in reversed(place):
        data = {key: data}
    with pytest.raises(VaekitError) as caught:
        resolve(data)
    assert len(str(caught.value)) < LONGEST_MESSAGE
