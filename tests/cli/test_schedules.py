"""Schedules: their values, their three forms, and their use in the command line, sweeps and searches."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch.func import functional_call, stack_module_state, vmap

import vaekit
from vaekit.errors import SpecError
from vaekit.nn.schedules import (
    KINDS,
    CyclicSchedule,
    LinearSchedule,
    NonNegativeScheduled,
    Schedule,
    Scheduled,
    SigmoidSchedule,
    scheduled,
)
from vaekit.specs.models import dump_spec, read_spec
from vaekit.specs.options import build_spec
from vaekit.specs.resolve import resolve
from vaekit.sweeps.space import read_over

Cli = Callable[..., tuple[int, str, str]]
READ: Any = TypeAdapter(Scheduled).validate_python
NON_NEGATIVE: Any = TypeAdapter(NonNegativeScheduled).validate_python
EXAMPLES = ["linear(1, 5, 10)", "cosine(1, 5, 10)", "sigmoid(1, 5, 10)", "cyclic(1, 5, 10)", "step(1, 5, 10)"]


def at(schedule: str, epoch: float) -> float:
    return scheduled(READ(schedule)).double()(torch.tensor(epoch, dtype=torch.float64)).item()


# Values


def test_there_is_an_example_of_each_kind() -> None:
    assert [READ(example).schedule for example in EXAMPLES] == list(KINDS)


@pytest.mark.parametrize("text", EXAMPLES)
def test_a_schedule_reaches_its_start_and_end_exactly(text: str) -> None:
    assert at(text, 0) == pytest.approx(1, abs=1e-15)
    number = scheduled(READ(text.replace("5", "0.3")))  # an interpolation would miss it by a rounding error
    assert number(torch.tensor(math.inf)) == torch.tensor(0.3)
    assert number(None) == torch.tensor(0.3)
    values = [at(text, epoch) for epoch in np.linspace(0, 35, 200)]
    assert 1 <= min(values) <= max(values) <= 5


@pytest.mark.parametrize(
    ("text", "epoch", "value"),
    [
        ("linear(1, 5, 10)", 2.5, 2),
        ("linear(5, 1, 10)", 2.5, 4),
        ("linear(1, 5, 10)", 11, 5),
        ("cosine(1, 5, 10)", 2.5, 1 + 4 * (1 - math.sqrt(0.5)) / 2),
        ("sigmoid(1, 5, 10)", 5, 3),
        ("sigmoid(0, 1, 10, slope=8)", 7.5, (1 / (1 + math.exp(-2)) - 1 / (1 + math.exp(4))) / (1 - 2 / (1 + math.exp(4)))),
        ("cyclic(1, 5, 10)", 2.5, 3),
        ("cyclic(1, 5, 10)", 7, 5),
        ("cyclic(1, 5, 10)", 12.5, 3),
        ("step(1, 5, 10)", 9.99, 1),
        ("step(1, 5, 10)", 10, 5),
        ("cyclic(1, 5, 10, rise=1)", 7.5, 4),
        ("constant(3)", 7, 3),
    ],
)
def test_values_match_the_formula(text: str, epoch: float, value: float) -> None:
    assert at(text, epoch) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("text", EXAMPLES)
def test_schedule_values_compile_to_one_graph_and_map_over_a_stack(text: str) -> None:
    one, other = scheduled(READ(text)), scheduled(READ(text.replace("5", "9")))
    compiled = torch.compile(one, fullgraph=True, backend="eager")
    base, (parameters, buffers) = one, stack_module_state([one, other])
    for epoch in map(torch.tensor, (0.0, 3.0, math.inf)):
        assert compiled(epoch) == one(epoch)
        stacked = vmap(lambda p, b, epoch=epoch: functional_call(base, (p, b), (epoch,)))(parameters, buffers)
        assert torch.equal(stacked, torch.stack([one(epoch), other(epoch)]))


# Forms


@pytest.mark.parametrize("text", ["linear(0, 4, 10)", " linear ( 0,end=4 , epochs = 10.0)", "linear(start=0, epochs=10, end=4)"])
def test_arguments_are_positional_or_named(text: str) -> None:
    assert READ(text) == LinearSchedule(start=0, end=4, epochs=10)
    assert str(READ(text)) == "linear(0, 4, 10)"


def test_text_data_and_objects_are_the_same() -> None:
    made = CyclicSchedule(start=0, end=1, period=5, rise=0.25)
    data = {"schedule": "cyclic", "start": 0, "end": 1, "period": 5, "rise": 0.25}
    assert READ("cyclic(0, 1, 5, 0.25)") == READ(data) == READ(made) == made
    assert READ("constant(2)") == READ({"schedule": "constant", "value": 2}) == READ("2") == READ(2) == 2.0


NUMBERS = st.floats(0, 1e6, exclude_min=True)
SCHEDULES = st.one_of(
    st.builds(LinearSchedule, start=st.floats(-1e6, 1e6), end=st.floats(allow_nan=False, allow_infinity=False), epochs=NUMBERS),
    st.builds(SigmoidSchedule, start=NUMBERS, end=NUMBERS, epochs=NUMBERS, slope=NUMBERS),
    st.builds(CyclicSchedule, start=NUMBERS, end=NUMBERS, period=NUMBERS, rise=st.floats(0, 1, exclude_min=True)),
)


@given(SCHEDULES)
def test_the_text_of_a_schedule_round_trips(schedule: Schedule) -> None:
    assert READ(str(schedule)) == schedule
    assert str(READ(str(schedule))) == str(schedule)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("four", r"must be a number or a schedule: linear\(start, end, epochs\), .*rise=0\.5\)"),
        ("linear", r"must be a number or a schedule"),
        (True, r"must be a number or a schedule"),
        ([1], r"must be a number or a schedule"),
        ("poly(1, 2)", r"unknown schedule 'poly', must be one of linear\(start, end, epochs\), cosine.*cyclic"),
        ({"start": 1}, r"needs `schedule`, one of linear, cosine"),
        ("linear(0, 4)", r"epochs: Field required, must be linear\(start, end, epochs\)"),
        ("linear(0, 4, 1, 2)", r"4 positional arguments, must be linear\(start, end, epochs\)"),
        ("linear(0, 4, x)", r"epochs: .*number"),
        ("linear(0, 4, 0)", r"epochs: .*greater than 0"),
        ("linear(0, 4, steps=3)", r"unknown argument 'steps', must be linear\(start, end, epochs\)"),
        ("linear(0, start=1, end=2)", r"start is given twice"),
        ("linear(0, end=1, end=2)", r"end is given twice"),
        ("linear(end=1, 2)", r"positional arguments must come first"),
        ("linear(0, inf, 3)", r"end: .*finite"),
        (math.inf, r"finite"),
        ("cyclic(0, 1, 5, rise=2)", r"rise: .*less than or equal to 1"),
    ],
)
def test_errors_state_the_given_and_expected_values(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        READ(value)


def test_bounds_apply_to_both_ends() -> None:
    assert READ("linear(-1, 1, 5)").start == -1
    for value in (-1, "linear(-1, 1, 5)", "linear(1, -1, 5)"):
        with pytest.raises(ValueError, match="greater than or equal to 0"):
            NON_NEGATIVE(value)


def test_a_spec_holds_the_text(tmp_path: Path) -> None:
    spec = resolve({"model": {"loss": {"kind": "beta", "beta": {"schedule": "linear", "start": 0, "end": 4, "epochs": 10}}}})
    assert "beta: linear(0, 4, 10)\n" in dump_spec(spec)
    (tmp_path / "spec.yaml").write_text(dump_spec(spec), "utf-8")
    assert resolve(read_spec(tmp_path / "spec.yaml")) == spec
    with pytest.raises(SpecError, match=r"loss\.beta: unknown schedule 'lin'.*given 'lin\(0, 1\)'"):
        resolve({"model": {"loss": {"kind": "beta", "beta": "lin(0, 1)"}}})


def test_the_json_schema_of_an_option_lists_its_forms() -> None:
    forms = TypeAdapter(NonNegativeScheduled).json_schema()["anyOf"]
    assert forms[0] == {"type": "number", "minimum": 0}
    assert forms[1]["type"] == "string"
    assert [form["properties"]["schedule"]["const"] for form in forms[2:]] == list(KINDS)
    assert all("schedule" in form["required"] for form in forms[2:])
    json.dumps(forms)


@pytest.mark.parametrize("value", ["linear(0, 4, 10)", LinearSchedule(start=0, end=4, epochs=10)])
def test_options_from_python_are_parsed_equally(value: Any) -> None:
    spec = build_spec({}, {"loss": "beta", "beta": value})
    assert str(spec.model.loss[0].beta) == "linear(0, 4, 10)"
    assert build_spec(spec.model_dump(mode="json"), {}) == spec
    assert build_spec(spec.model_dump(), {}) == spec


# Use


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("data") / "images.npy"
    np.save(file, np.random.default_rng(0).integers(0, 256, (64, 6, 6), dtype=np.uint8))
    model = {"encoder.hidden": "8", "decoder.hidden": "8", "latent_dim": "2", "likelihood": "bce", "binarize": "dynamic"}
    training = {"batch_size": "16", "epochs": "2", "threads": "1", "device": "cpu", "pictures": "none"}
    return {"dataset": "array", "dataset.path": str(file), **model, **training}


def flags(options: dict[str, Any]) -> list[str]:
    return [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def test_the_command_line_accepts_and_shows_schedules(data: dict[str, Any], tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "run"
    code, _, err = cli("train", *flags(data), "--loss", "beta", "--beta", "cosine(0, 2, epochs=1)", "--out", out)
    assert (code, err) == (0, "")
    assert "beta: cosine(0, 2, 1)\n" in (out / "spec.yaml").read_text("utf-8")
    _, shown, _ = cli("components", "show", "beta")
    assert "--loss.beta float|schedule  (default 4)" in shown
    assert all(kind.signature() in " ".join(shown.split()) for kind in KINDS.values())
    assert "default linear(0, 25, 20)" in cli("components", "show", "capacity")[1]
    code, _, err = cli("train", *flags(data), "--loss", "beta", "--beta", "cosine(0, 2)", "--out", tmp_path / "other")
    assert code == 2
    assert "epochs: Field required, must be cosine(start, end, epochs)" in err


def test_commas_in_parentheses_do_not_separate_values() -> None:
    assert read_over("beta=linear(0,1,5),linear(0,4,5)") == ("beta", ["linear(0,1,5)", "linear(0,4,5)"])
    assert read_over("beta=1,cyclic(0, 1, 5, rise=1),4") == ("beta", ["1", "cyclic(0, 1, 5, rise=1)", "4"])
    assert read_over("beta=1;linear(0,1,5)") == ("beta", ["1", "linear(0,1,5)"])


def test_a_sweep_stacks_schedules_of_the_same_kind(data: dict[str, Any], tmp_path: Path, cli: Cli) -> None:
    over = "beta=linear(0,1,2),linear(0,4,2),1,2"
    code, _, err = cli("sweep", *flags(data), "--loss", "beta", "--over", over, "--stack", "on", "--out", tmp_path / "sweep")
    assert (code, err) == (0, "")
    record = json.loads((tmp_path / "sweep/sweep.json").read_text("utf-8"))
    assert [(group["numbers"], group["stacked"]) for group in record["groups"]] == [([0, 1], True), ([2, 3], True)]
    assert any("beta.beta is Changing in one and Number in another" in note for note in record["notes"])
    assert record["runs"][0]["run"] == "0001-beta=linear_0_1_2_"


def test_a_search_draws_from_a_list_of_schedules(data: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    over = {"beta": (1.0, LinearSchedule(start=0, end=4, epochs=2), "linear(0, 1, 2)")}
    where = {"storage": tmp_path / "study.journal", "out": tmp_path / "search"}
    runs = vaekit.search(over=over, trials=3, **where, loss="beta", **data)
    drawn = {row["options"]["beta"] for row in json.loads((tmp_path / "search/sweep.json").read_text("utf-8"))["runs"]}
    assert drawn <= {1.0, "linear(0, 4, 2)", "linear(0, 1, 2)"}
    assert {str(run.spec.model.loss[0].beta) for run in runs} <= {str(each) for each in drawn}
