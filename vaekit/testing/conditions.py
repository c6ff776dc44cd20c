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
    """Return every label in random order, some of them twice."""
    return torch.tensor([2, 0, 3, 1, 2])


@check("condition")
def check_output(candidate: Candidate) -> None:
    """Labels are mapped to finite vectors of the declared size, which is at least 0, in the dtype of the weights."""
    for dtype in (torch.float32, torch.float64):
        condition, y = condition_of(candidate, dtype), labels()
        for num in (1, len(y)):
            with during(f"the vectors of {num} labels"):
                c = condition(y[:num])
            expect(c.shape == (num, condition.size), "the shape", expected=f"({num}, {condition.size})", got=tuple(c.shape))
            expect_finite(c, "the vectors")
            if condition.size:
                expect(c.dtype == dtype, f"the dtype for {dtype} weights", expected=dtype, got=c.dtype)


@check("condition")
def check_independence(candidate: Candidate) -> None:
    """A label's vector depends only on that label."""
    condition = condition_of(candidate)
    together, alone = condition(labels()), torch.cat([condition(y[None]) for y in labels()])
    expect(
        torch.equal(together, alone), "the vectors of several labels, compared with one by one", expected="equal", got="different"
    )


@check("condition")
def check_gradient(candidate: Candidate) -> None:
    """Every parameter receives a gradient."""
    condition = condition_of(candidate, torch.float64)
    if any(parameter.requires_grad for parameter in condition.parameters()):
        expect_gradients(condition, condition(labels()).pow(2).sum(), "from vectors")


@check("condition")
def check_device(candidate: Candidate) -> None:
    """It moves to another device completely: it creates no CPU tensors."""
    with during("torch's meta device"):
        c = condition_of(candidate).to("meta")(labels().to("meta"))
    expect(c.device.type == "meta", "the device of vectors", expected="meta", got=c.device.type)


@check("condition")
def check_compile(candidate: Candidate) -> None:
    """`torch.compile` compiles it to a single graph that agrees with eager mode."""
    expect_compiles(condition_of(candidate), (labels(),))


@check("condition")
def check_vmap(candidate: Candidate) -> None:
    """Conditions stacked with `torch.vmap`, as in sweeps, have the same outputs and gradients as separate ones."""
    conditions = [condition_of(candidate, torch.float64) for _ in range(2)]
    if any(parameter.requires_grad for parameter in conditions[0].parameters()):
        expect_stackable(conditions, labels())


@check("condition")
def check_state_dict(candidate: Candidate) -> None:
    """Saving the weights and loading them into a new instance gives bit-identical vectors."""
    expect_same_after_loading(condition_of(candidate), condition_of(candidate), lambda condition: [condition(labels())])
