"""Checks of conditions."""

from __future__ import annotations

import torch
from torch import Tensor

from vaekit.interfaces import Condition
from vaekit.testing.backbones import expect_compiles
from vaekit.testing.common import expect_gradients, expect_same_after_loading, expect_stackable, module_of
from vaekit.testing.core import Candidate, check, during, expect, expect_finite

NUM_CLASSES = 4


def condition_of(candidate: Candidate, dtype: torch.dtype = torch.float32) -> Condition:
    """Build the condition."""
    condition: Condition = module_of(candidate, dtype, num_classes=NUM_CLASSES)
    return condition


def labels() -> Tensor:
    """Return every label, in no particular order, and some twice."""
    return torch.tensor([2, 0, 3, 1, 2])


@check("condition")
def check_output(candidate: Candidate) -> None:
    """Labels become finite vectors of the declared size, in the type of the weights; the size is 0 or more."""
    for dtype in (torch.float32, torch.float64):
        condition, y = condition_of(candidate, dtype), labels()
        for num in (1, len(y)):
            with during(f"the vectors of {num} labels"):
                c = condition(y[:num])
            expect(c.shape == (num, condition.size), "the shape", expected=f"({num}, {condition.size})", came=tuple(c.shape))
            expect_finite(c, "the vectors")
            if condition.size:
                expect(c.dtype == dtype, f"the type where weights are {dtype}", expected=dtype, came=c.dtype)


@check("condition")
def check_independence(candidate: Candidate) -> None:
    """A label's vector depends on that label alone."""
    condition = condition_of(candidate)
    together, alone = condition(labels()), torch.cat([condition(y[None]) for y in labels()])
    expect(torch.equal(together, alone), "the vectors of several labels, against one by one", expected="equal", came="others")


@check("condition")
def check_gradient(candidate: Candidate) -> None:
    """Every parameter receives a gradient."""
    condition = condition_of(candidate, torch.float64)
    if any(parameter.requires_grad for parameter in condition.parameters()):
        expect_gradients(condition, condition(labels()).pow(2).sum(), "from vectors")


@check("condition")
def check_device(candidate: Candidate) -> None:
    """It moves to another device completely: it creates no tensor on the CPU."""
    with during("torch's meta device"):
        c = condition_of(candidate).to("meta")(labels().to("meta"))
    expect(c.device.type == "meta", "the device of vectors", expected="meta", came=c.device.type)


@check("condition")
def check_compile(candidate: Candidate) -> None:
    """`torch.compile` compiles it to a single graph that agrees with eager execution."""
    expect_compiles(condition_of(candidate), (labels(),))


@check("condition")
def check_vmap(candidate: Candidate) -> None:
    """Conditions stacked under `torch.vmap`, as sweeps train them, have the outputs and gradients of each alone."""
    conditions = [condition_of(candidate, torch.float64) for _ in range(2)]
    if any(parameter.requires_grad for parameter in conditions[0].parameters()):
        expect_stackable(conditions, labels())


@check("condition")
def check_state_dict(candidate: Candidate) -> None:
    """Saving the weights and loading them into a new instance gives bit-identical vectors."""
    expect_same_after_loading(condition_of(candidate), condition_of(candidate), lambda condition: [condition(labels())])
