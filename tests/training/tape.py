"""An emulation of CUDA graphs on the CPU: operations are recorded with their memory, and replayed on that memory."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2", "lift_fresh"}
"""Operations that synchronise on a GPU: those that transfer values to or from Python (such as ``torch.tensor``), or whose
result size depends on values."""


class Tape(TorchDispatchMode):
    """Records the operations within it; their changes are reverted, since recording on a GPU executes nothing."""

    def __init__(self):
        super().__init__()
        self.operations = []
        self.before = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = operation.__name__.split(".")[0]
        masked = name == "index" and any(each.dtype == torch.bool for each in tree_leaves(args[1]) if each is not None)
        if name in WAITS or masked:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        if operation._schema.is_mutable:
            self.before += [(each, each.clone()) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        result = operation(*args, **kwargs)
        self.operations.append((operation, args, kwargs, result))
        return result

    @torch.no_grad()
    def rewind(self):
        for tensor, value in reversed(self.before):
            tensor.copy_(value)
        self.before.clear()

    @torch.no_grad()
    def replay(self):
        for operation, args, kwargs, result in self.operations:
            again = operation(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def record(function, streams=()):
    """Stand in for `vaekit.compute.graphs.record`."""
    tape = Tape()
    with ExitStack() as recorded, tape:
        for each in streams:
            recorded.enter_context(each.recorded())
        result = function()
    tape.rewind()
    return result, tape.replay
