"""Checks that components of several roles share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import Tensor, nn

from vaekit.testing.core import REGISTRY_OF, Candidate, ConformanceError, built, check, during, expect

ALL_ROLES = tuple(REGISTRY_OF)


@check(*ALL_ROLES)
def check_documentation(candidate: Candidate) -> None:
    """The docstring's first line says what the component is, and ``Args:`` describes every option."""
    first = (candidate.cls.__dict__.get("__doc__") or "").strip().partition("\n")[0]
    expect(bool(first), "the class has no docstring", expected="one line that says what the component is", came="nothing")
    missing = [name for name, field in candidate.schema.model_fields.items() if name != "kind" and not field.description]
    expect(
        not missing, "the docstring", expected="every option described under Args:", came=f"{', '.join(missing)} not described"
    )


@check(*ALL_ROLES)
def check_spec_round_trip(candidate: Candidate) -> None:
    """The spec survives a round trip through JSON and rejects unknown options."""
    spec = candidate.spec
    text = spec.model_dump_json()
    again = type(spec).model_validate_json(text)
    expect(again == spec, "the spec written as JSON and read back", expected=spec, came=again)
    plain = type(spec).model_validate(spec.model_dump(mode="json"))
    expect(plain == spec, "the spec written as plain data and read back", expected=spec, came=plain)
    try:
        type(spec).model_validate({**spec.model_dump(), "no_such_option": 1})
    except ValidationError:
        return
    raise ConformanceError("an option that does not exist\n  expected: refused\n  came:     accepted")


def module_of(candidate: Candidate, dtype: torch.dtype = torch.float32, /, **available: Any) -> Any:
    """Build a component that is a module; for float32, it keeps the dtype that it was built with."""
    module = built(candidate, **available)
    return module if dtype == torch.float32 else module.to(dtype)


def expect_same_after_loading(module: nn.Module, other: nn.Module, outputs: Any) -> None:
    """Raise unless loading one module's saved weights into another gives bit-identical outputs."""
    with during("writing its state to safetensors and reading it back"):
        state = load(save({name: tensor.contiguous() for name, tensor in module.state_dict().items()}))
        other.load_state_dict(state)
    for mine, theirs in zip(outputs(module), outputs(other), strict=True):
        expect(torch.equal(mine, theirs), "outputs after loading the saved weights", expected="bit-equal ones", came="others")


def expect_gradients(module: nn.Module, loss: Tensor, what: str, *, floor: float = 1e-9) -> None:
    """Raise unless every parameter receives a gradient above rounding noise; ``floor`` assumes float64."""
    loss.backward()
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        largest = None if parameter.grad is None else parameter.grad.abs().max().item()
        expect(
            largest is not None and floor < largest < float("inf"),
            f"the gradient of parameter {name}, {what}",
            expected=f"a finite one above {floor:g}",
            came="none" if largest is None else f"{largest:.3e} at most",
        )


def expect_exact_gradient(function: Callable[[Tensor], Tensor], at: Tensor, what: str) -> None:
    """Raise unless autograd's derivative of a function equals a central difference along a random direction, in float64.

    They differ if a tensor was detached along the way, or if a custom backward is wrong.
    """
    direction, step = torch.randn_like(at), 1e-5
    at = at.detach().requires_grad_()
    value = function(at)
    weights = torch.randn_like(value)
    (gradient,) = torch.autograd.grad((weights * value).sum(), at, allow_unused=True)
    expect(gradient is not None, what, expected="one", came="none")
    with torch.no_grad():
        ahead, behind = (function(at + sign * step * direction) for sign in (1, -1))
    difference = (weights * (ahead - behind)).sum().item() / (2 * step)
    came = (gradient * direction).sum().item()
    off = abs(came - difference)
    expect(off <= 1e-5 * (1 + abs(difference)), what, expected=f"{difference:.6g}, by a difference of values", came=f"{came:.6g}")
