"""Checks shared by several roles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from vaekit.interfaces import Module
from vaekit.testing.core import (
    REGISTRY_OF,
    Candidate,
    ConformanceError,
    built,
    check,
    during,
    expect,
    expect_close,
    expect_finite,
)
from vaekit.trace import Site, Trace

ALL_ROLES = tuple(REGISTRY_OF)


@check(*ALL_ROLES)
def check_documentation(candidate: Candidate) -> None:
    """The first docstring line says what the component is, and ``Args:`` describes every option."""
    first = (candidate.cls.__dict__.get("__doc__") or "").strip().partition("\n")[0]
    expect(bool(first), "the class has no docstring", expected="one line that says what the component is", got="nothing")
    missing = [name for name, field in candidate.schema.model_fields.items() if name != "kind" and not field.description]
    expect(not missing, "the docstring", expected="every option described under Args:", got=f"{', '.join(missing)} not described")


@check(*ALL_ROLES)
def check_spec_round_trip(candidate: Candidate) -> None:
    """The spec survives a JSON round trip and rejects unknown options."""
    spec = candidate.spec
    text = spec.model_dump_json()
    again = type(spec).model_validate_json(text)
    expect(again == spec, "the spec written as JSON and read back", expected=spec, got=again)
    plain = type(spec).model_validate(spec.model_dump(mode="json"))
    expect(plain == spec, "the spec written as plain data and read back", expected=spec, got=plain)
    try:
        type(spec).model_validate({**spec.model_dump(), "no_such_option": 1})
    except ValidationError:
        return
    raise ConformanceError("an unknown option\n  expected: an error\n  got:      none")


def module_of(candidate: Candidate, dtype: torch.dtype = torch.float32, /, **available: Any) -> Any:
    """Build a component that is a module; for float32, it keeps its initial dtype."""
    module = built(candidate, **available)
    return module if dtype == torch.float32 else module.to(dtype)


def expect_same_after_loading(module: nn.Module, other: nn.Module, outputs: Any) -> None:
    """Raise unless loading one module's saved weights into another gives bit-identical outputs."""
    with during("saving its state to safetensors and loading it"):
        state = load(save({name: tensor.contiguous() for name, tensor in module.state_dict().items()}))
        other.load_state_dict(state)
    for mine, theirs in zip(outputs(module), outputs(other), strict=True):
        expect(torch.equal(mine, theirs), "outputs after loading the saved weights", expected="bit-identical", got="different")


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
            got="none" if largest is None else f"{largest:.3e} at most",
        )


def expect_pure_state(part: Module, whole: nn.Module, trace: Trace) -> None:
    """Raise unless state learned without gradients is persistent and its next values are a function of a trace.

    Args:
        part: The part.
        whole: A module that contains it and everything that its state may depend on.
        trace: A trace.
    """
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    own = dict([*part.named_parameters(), *part.named_buffers()])
    unknown = [name for name in part.learned if name not in dict(part.named_buffers()) or name not in part.state_dict()]
    expect(not unknown, "the learned state", expected="persistent buffers", got=", ".join(unknown))
    some = f"some of {', '.join(part.learned) or 'no buffers'}"
    expect(set(part.examples) <= set(part.learned), "the names in examples", expected=some, got=", ".join(part.examples))
    with torch.no_grad(), during("computing its next and initial state"):
        states = part.next_state(trace), part.next_state(trace), part.initial_state(trace)
    expect(set(states[0]) == set(part.learned), "the names in next_state", expected=set(part.learned), got=set(states[0]))
    expect(set(states[2]) <= set(own), "the names in initial_state", expected=f"some of {', '.join(own)}", got=set(states[2]))
    for state in states:
        for name, value in state.items():
            given, needed = (value.shape, value.dtype), (own[name].shape, own[name].dtype)
            expect(given == needed, f"the shape and dtype of the new {name}", expected=needed, got=given)
            expect_finite(value, f"the new {name}")
    same = all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    expect(same, "the next state from the same trace, twice", expected="equal", got="different")
    changed = [name for name, value in whole.state_dict().items() if not torch.equal(value, before[name])]
    expect(not changed, "the state of the model afterwards", expected="unchanged", got=f"{', '.join(changed)} changed")


def expect_exact_gradient(function: Callable[[Tensor], Tensor], at: Tensor, what: str) -> None:
    """Raise unless autograd's derivative of a function equals a central difference in a random direction, in float64.

    They differ if a tensor is detached along the way or a custom backward is wrong.
    """
    direction, step = torch.randn_like(at), 1e-5
    at = at.detach().requires_grad_()
    value = function(at)
    weights = torch.randn_like(value)
    (gradient,) = torch.autograd.grad((weights * value).sum(), at, allow_unused=True)
    expect(gradient is not None, what, expected="one", got="none")
    with torch.no_grad():
        ahead, behind = (function(at + sign * step * direction) for sign in (1, -1))
    difference = (weights * (ahead - behind)).sum().item() / (2 * step)
    got = (gradient * direction).sum().item()
    off = abs(got - difference)
    expect(off <= 1e-5 * (1 + abs(difference)), what, expected=f"{difference:.6g}, from finite differences", got=f"{got:.6g}")


def expect_stackable(modules: Sequence[nn.Module], *inputs: Any) -> None:
    """Raise unless modules stacked with `torch.vmap`, as in sweeps, have the same outputs and gradients as separate ones.

    Args:
        modules: Modules in float64 that differ only in their parameters.
        inputs: The inputs of each module.
    """
    with during("torch.vmap over stacked parameters"):
        parameters, buffers = stack_module_state(list(modules))
        stacked = vmap(lambda own, fixed: functional_call(modules[0], (own, fixed), inputs))(parameters, buffers)
        weights = torch.randn_like(stacked)
        gradients = _gradients_of((weights * stacked).sum(), parameters)
    for number, module in enumerate(modules):
        alone = module(*inputs)
        expect_close(stacked[number], alone, "stacked, compared with each alone", rtol=1e-7, atol=1e-9)
        for name, own in _gradients_of((weights[number] * alone).sum(), dict(module.named_parameters())).items():
            expect_close(
                gradients[name][number], own, f"the gradient of {name}, stacked, compared with each alone", rtol=1e-7, atol=1e-9
            )


def _gradients_of(value: Tensor, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the gradient of a value with respect to each trained parameter; 0 if independent of it."""
    moving = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    found = torch.autograd.grad(value, list(moving.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(moving, found, strict=True))


def expect_detachable(module: nn.Module, arguments: Sequence[Tensor], values: Callable[[Any], list[Tensor]]) -> None:
    """Raise unless a density can be detached from its graph, as for the losses of another player.

    Args:
        module: A posterior, prior or likelihood.
        arguments: The inputs of its ``forward``.
        values: A function from the density to its samples, scores and so on.
    """
    own = {name: parameter.detach().clone().requires_grad_() for name, parameter in module.named_parameters()}
    sources = [*own.values(), *(argument.detach().requires_grad_() for argument in arguments)]
    density = functional_call(module, own, tuple(sources[len(own) :]))
    z = torch.zeros(())
    with during("detaching it; use a named tuple or define a method detach"):
        detached = Trace(x=z, sites=(Site(z, density, density),), decoded=density).detach().likelihood
    for attached, value in zip(values(density), values(detached), strict=True):
        expect(torch.equal(attached, value), "values of the detached density", expected="unchanged", got="different ones")
        gradients = torch.autograd.grad(value.sum(), sources, allow_unused=True) if value.requires_grad else ()
        leaks = any(gradient is not None for gradient in gradients)
        expect(not leaks, "the detached density", expected="no gradient to its inputs", got="one")
