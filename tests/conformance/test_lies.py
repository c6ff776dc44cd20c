"""Silent errors are caught by the corresponding check."""

from __future__ import annotations

import pytest
from lies import LIES, SOUND

from vaekit.testing import Check, ConformanceError, checks


def named(role: str, name: str) -> Check:
    (found,) = [check for check in checks(role) if check.__name__ == name]
    return found


@pytest.mark.parametrize(("role", "cls", "check", "message"), LIES, ids=[f"{role}-{cls.__name__}" for role, cls, _, _ in LIES])
def test_a_lie_is_caught_by_its_check_with_expected_and_found_values(role: str, cls: type, check: str, message: str) -> None:
    with pytest.raises(ConformanceError, match=message) as caught:
        named(role, check)(cls)
    text = str(caught.value)
    assert text.startswith(f"{role} {cls.__name__!r} fails {check}: ")
    assert "\n  expected: " in text
    assert "\n  got:      " in text


@pytest.mark.parametrize(
    ("check", "cls"),
    [
        pytest.param(check, cls, id=f"{cls.__name__}-{check.__name__}")
        for role, cls in SOUND
        for check in checks(role)
        if check.__name__ != "check_documentation"
    ],
)
def test_correct_counterparts_of_the_lies_pass(check: Check, cls: type) -> None:
    check(cls)
