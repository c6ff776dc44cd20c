"""Checks and the candidates under test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from pydantic import ValidationError
from torch import Tensor

from vaekit.errors import UnknownComponentError, reason_of
from vaekit.registry import Registry
from vaekit.roles import REGISTRIES
from vaekit.schema import ComponentSpec, derive_spec, wiring

REGISTRY_OF: dict[str, Registry[Any]] = {registry.role: registry for registry in REGISTRIES}


class ConformanceError(AssertionError):
    """A component does not meet the requirements of its role; the message states what was expected and what was found."""


class Candidate:
    """A component under test, which checks can build repeatedly.

    Args:
        role: Its role.
        component: A registered name, or a class.
        options: Its options.
    """

    def __init__(self, role: str, component: str | type, options: Mapping[str, Any] | None = None) -> None:
        self.components = REGISTRY_OF[role]
        self.role, self.options = role, dict(options or {})
        if isinstance(component, str):
            self.cls: Any = self.components.get(component)
            self.schema = self.components.spec(component)
            self.kind = component
        else:
            self.kind = vars(component).get("kind", component.__name__)  # not that of its base class
            self.cls, self.schema = component, derive_spec(component, self.kind, self.components.wiring)

    def __str__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{self.role} {self.kind!r}" + (f" with {options}" if options else "")

    @property
    def by_default(self) -> Candidate:
        """The same component with default options; options without a default keep the value under test."""
        required = {name for name, field in self.schema.model_fields.items() if field.is_required()}
        return Candidate(self.role, self.cls, {name: value for name, value in self.options.items() if name in required})

    @property
    def spec(self) -> ComponentSpec:
        """The component's spec with the options under test."""
        try:
            return self.schema.model_validate({"kind": self.kind, **self.options})
        except ValidationError as error:
            given = ", ".join(f"{item['loc'][0]}: {item['msg']}" for item in error.errors(include_url=False))
            raise ConformanceError(f"invalid options ({given}); pass them to the check as options={{…}}") from error

    @property
    def keywords(self) -> dict[str, Any]:
        """All options by name, including defaults."""
        spec = self.spec
        return {name: getattr(spec, name) for name in type(spec).model_fields if name != "kind"}

    def build(self, **available: Any) -> Any:
        """Build the component with the same wiring as in assembly."""
        return self.cls(*(available[name] for name in wiring(self.cls)), **self.keywords)


@dataclass(frozen=True)
class Check:
    """A check for a role, called with a component. Its ``__name__`` is its pytest id.

    Args:
        role: The role.
        function: The check, which raises an error if the component fails.
    """

    role: str
    function: Callable[[Candidate], None]

    @property
    def __name__(self) -> str:
        return self.function.__name__

    def __call__(
        self,
        component: str | type,
        *,
        options: Mapping[str, Any] | None = None,
        expected_failures: Mapping[str, str] | None = None,
    ) -> None:
        """Check a component with a fixed seed, preserving torch's generator. Arguments and errors are those of `Suite`."""
        candidate = Candidate(self.role, component, options)
        reason = _reason(self, expected_failures or {})
        try:
            with torch.random.fork_rng(devices=[]), torch.enable_grad():
                torch.manual_seed(0)
                self.function(candidate)
        except (Exception, SystemExit) as error:
            if reason is not None:
                return
            text = str(error) if isinstance(error, ConformanceError) else reason_of(error)
            raise ConformanceError(f"{candidate} fails {self.__name__}: {text}") from error
        if reason is not None:
            raise ConformanceError(
                f"{candidate} passes {self.__name__}\n  expected: a failure, because {reason}\n  remedy:   take it off the list"
            )


_CHECKS: dict[str, list[Check]] = {role: [] for role in REGISTRY_OF}


def check(*roles: str) -> Callable[[Callable[[Candidate], None]], Callable[[Candidate], None]]:
    """Return a decorator that registers a function as a check for roles."""

    def register(function: Callable[[Candidate], None]) -> Callable[[Candidate], None]:
        for role in roles:
            _CHECKS[role].append(Check(role, function))
        return function

    return register


def checks(role: str) -> tuple[Check, ...]:
    """Return the checks of a role: ``checks("encoder")``."""
    if role not in _CHECKS:
        raise UnknownComponentError(f"unknown role {role!r}", expected=f"one of {', '.join(_CHECKS)}")
    return tuple(_CHECKS[role])


class Suite(Protocol):
    """A function that runs all checks of a role."""

    def __call__(
        self,
        component: str | type,
        *,
        options: Mapping[str, Any] | None = None,
        expected_failures: Mapping[str, str] | None = None,
    ) -> None:
        """Check a component, stopping at the first failure.

        Args:
            component: A registered name, or a class that need not be registered.
            options: The options under test; default: the default options.
            expected_failures: ``{check: reason}`` for checks that are known to fail; it is an error if one passes.

        Raises:
            ConformanceError: A check failed, or passed unexpectedly.
        """
        ...


def suite(role: str) -> Suite:
    """Return the function ``check_<role>``, which runs all checks of a role."""

    def run(
        component: str | type,
        *,
        options: Mapping[str, Any] | None = None,
        expected_failures: Mapping[str, str] | None = None,
    ) -> None:
        for check in checks(role):
            check(component, options=options, expected_failures=expected_failures)

    run.__name__ = run.__qualname__ = f"check_{role}"
    run.__doc__ = (Suite.__call__.__doc__ or "").replace("Check a component", f"Run all checks of the role {role}")
    return run


def _reason(check: Check, expected_failures: Mapping[str, str]) -> str | None:
    names = [other.__name__ for other in checks(check.role)]
    for name, reason in expected_failures.items():
        if name not in names or not reason:
            raise ConformanceError(
                f"invalid expected failure {name!r}\n  expected: one of {', '.join(names)}, and a reason\n  got:      {reason!r}"
            )
    return expected_failures.get(check.__name__)


def built(candidate: Candidate, **available: Any) -> Any:
    """Build the component with its wiring; raise unless it is an instance of its role's base class."""
    wiring = ", ".join(f"{name} {value}" for name, value in available.items() if isinstance(value, int | tuple))
    with during(f"building it for {wiring}" if wiring else "building it"):
        component = candidate.build(**available)
    base = candidate.components.base_class
    expect(
        isinstance(component, base),
        "the class of the component",
        expected=f"a vaekit.{base.__name__}",
        got=type(component).__name__,
    )
    return component


def expect(holds: bool | Tensor, what: str, *, expected: object, got: object) -> None:
    """Raise unless a condition holds.

    Raises:
        ConformanceError: It does not hold; the message states what was expected and what was found.
    """
    if not holds:
        raise ConformanceError(f"{what}\n  expected: {expected}\n  got:      {got}")


def expect_close(got: Tensor, expected: Tensor, what: str, *, rtol: float, atol: float = 0.0) -> None:
    """Raise unless two tensors agree up to ``atol`` plus ``rtol`` times the largest absolute value expected."""
    expect(got.shape == expected.shape, f"{what}: the shape", expected=tuple(expected.shape), got=tuple(got.shape))
    if got.numel() == 0:
        return
    got, expected = got.detach().double(), expected.detach().double()
    allowed = atol + rtol * expected.abs().max().item()
    difference = (got - expected).abs().max().item()
    expect(difference <= allowed, what, expected=f"a difference of at most {allowed:.1e}", got=f"{difference:.3e}")


def expect_finite(got: Tensor, what: str) -> None:
    """Raise unless every element is finite."""
    bad = int((~got.isfinite()).sum())
    expect(bad == 0, what, expected="finite values", got=f"{bad} of {got.numel()} are NaN or infinite")


@contextmanager
def during(what: str) -> Iterator[None]:
    """Turn an exception raised within the context into a `ConformanceError` that describes the operation."""
    try:
        yield
    except ConformanceError:
        raise
    except (Exception, SystemExit) as error:
        raise ConformanceError(f"{what}\n  expected: no error\n  got:      {reason_of(error)}") from error
