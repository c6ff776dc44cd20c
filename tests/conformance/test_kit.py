"""Calls, messages and side effects of checks."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lies import Counting, Idle, Sound

import vaekit.testing
from vaekit.errors import UnknownComponentError
from vaekit.roles import REGISTRIES, encoders
from vaekit.testing import Check, ConformanceError, check_encoder, check_prior, checks

ROOT = Path(__file__).parents[2]


def named(role: str, name: str) -> Check:
    (found,) = [check for check in checks(role) if check.__name__ == name]
    return found


@pytest.mark.parametrize("check", checks("encoder"))
def test_a_correct_encoder_passes(check: Check) -> None:
    check(Sound, options={"scale": 0.5})


def test_expected_failures_have_a_reason_and_do_fail() -> None:
    check = named("encoder", "check_purity")
    check(Counting, expected_failures={"check_purity": "it counts"})
    with pytest.raises(ConformanceError, match="a failure, because it counts"):
        check(Sound, expected_failures={"check_purity": "it counts"})
    for wrong in ({"check_everything": "why not"}, {"check_purity": ""}):
        with pytest.raises(ConformanceError, match="invalid expected failure"):
            check(Sound, expected_failures=wrong)


def test_one_call_runs_every_check_and_accepts_a_registered_name() -> None:
    check_prior("normal")
    with pytest.raises(ConformanceError, match="check_gradient"):
        check_encoder(Idle)


def test_wrong_arguments_are_explained() -> None:
    with pytest.raises(UnknownComponentError, match="unknown encoder 'mpl'"):
        named("encoder", "check_purity")("mpl")
    with pytest.raises(ConformanceError, match="scale: Input should be a valid number"):
        named("encoder", "check_purity")(Sound, options={"scale": "much"})
    with pytest.raises(UnknownComponentError, match="unknown role 'network'"):
        checks("network")


def test_checks_preserve_the_random_state_and_need_no_pytest_or_numpy() -> None:
    code = """
import sys, torch, vaekit.testing
before = torch.get_rng_state()
vaekit.testing.check_prior("normal")
assert torch.equal(before, torch.get_rng_state())
assert "pytest" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    for file in (ROOT / "vaekit" / "testing").glob("*.py"):
        assert "import pytest" not in file.read_text("utf-8")
        assert "import numpy" not in file.read_text("utf-8")


@pytest.mark.parametrize("role", [registry.role for registry in REGISTRIES])
def test_every_role_has_checks_with_one_line_summaries(role: str) -> None:
    assert len(checks(role)) >= 8
    assert len({check.__name__ for check in checks(role)}) == len(checks(role))
    for check in checks(role):
        first = (check.function.__doc__ or "").partition("\n")[0]
        assert first.endswith((".", ":")), check.__name__


@pytest.mark.parametrize("role", [registry.role for registry in REGISTRIES])
def test_every_role_has_a_function_that_help_and_editors_can_show(role: str) -> None:
    suite = getattr(vaekit.testing, f"check_{role}")
    assert f"check_{role}" in vaekit.testing.__all__
    assert list(inspect.signature(suite).parameters) == ["component", "options", "expected_failures"]
    shown = pydoc.render_doc(suite, renderer=pydoc.plaintext)
    assert f"check_{role}(component: 'str | type', *, options" in shown
    assert f"Run all checks of the role {role}" in shown
    assert "ConformanceError" in shown


def test_a_derived_class_is_not_called_by_the_name_of_its_base() -> None:
    class Derived(encoders.get("mlp")):  # type: ignore[misc]
        """Fails."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("no")

    with pytest.raises(ConformanceError, match=r"^encoder 'Derived' fails check_purity: ValueError: no"):
        named("encoder", "check_purity")(Derived)


def test_a_temporarily_registered_component_is_checked_by_name() -> None:
    with encoders.temporarily(sound=Sound):
        named("encoder", "check_output_shape")("sound", options={"scale": 2})
    assert "sound" not in encoders


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Failing(Sound):
    """Fails with an exception without text."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise Mute


def test_exceptions_without_text_fail_the_checks() -> None:
    for check in checks("encoder"):
        if check.__name__ not in {"check_documentation", "check_spec_round_trip"}:
            with pytest.raises(ConformanceError, match=r"Mute|Unsupported"):  # torch.compile has its own exception
                check(Failing)
