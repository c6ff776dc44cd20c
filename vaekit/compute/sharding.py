"""Sharding with torch's FSDP2: each process holds a shard of every parameter, its gradient and its optimiser state."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

from vaekit.compute.distributed import ProcessGroup
from vaekit.errors import UsageError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

BLOCK = 100_000
"""The minimum number of parameters of a separately gathered block; smaller blocks are gathered with the enclosing module."""


def shard(module: nn.Module, backbones: Iterable[nn.Module], processes: ProcessGroup, methods: Iterable[str] = ()) -> nn.Module:
    """Shard the parameters of a module across processes; return a copy without parameters, which `gathered` fills.

    Parameters are gathered only while their block computes. A block is an element of a backbone's lists and sequences, the
    backbone, or the module with all remaining parameters. Gradients equal those under DDP. The sharded module is for training:
    all processes must run the same forward passes in the same order.

    Args:
        module: The module to shard, in place.
        backbones: The submodules with most of the parameters.
        processes: The processes that share the module.
        methods: The names of the module's methods, besides ``forward``, that use its parameters.

    Raises:
        UsageError: A parameter is a scalar, which cannot be sharded.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    whole = [name for name, parameter in module.named_parameters() if parameter.ndim == 0]
    if whole:
        raise UsageError(
            "0-d parameters cannot be sharded across processes",
            given=", ".join(whole),
            expected="parameters with at least one dimension",
            remedy="train with --parallel ddp",
        )
    empty = copy.deepcopy(module, {id(p): nn.Parameter(p.to("meta"), p.requires_grad) for p in module.parameters()})
    mesh = init_device_mesh(processes.device.type, (processes.size,))
    for backbone in backbones:
        # if the output were a view, an in-place change would lose FSDP's hooks
        backbone.register_forward_hook(lambda module, inputs, output: output.clone())
        for block in (*blocks(backbone), backbone):
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(module, mesh=mesh, reshard_after_forward=False)
    for method in methods:
        register_fsdp_forward_method(module, method)
    return empty


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost elements of a network's lists and sequences that have at least `BLOCK` parameters."""
    containers = nn.Sequential | nn.ModuleList
    for child in network.children():
        if isinstance(network, containers) and not isinstance(child, containers):
            if sum(parameter.numel() for parameter in child.parameters()) >= BLOCK:
                yield child
        else:
            yield from blocks(child)


@contextmanager
def gathered(module: nn.Module, empty: nn.Module) -> Iterator[None]:
    """Fill the copy returned by `shard` with all parameters within the context, so that each process can use it independently."""
    if empty is module:
        yield
        return
    whole = {name: tensor.full_tensor() if _divided(tensor) else tensor for name, tensor in module.state_dict().items()}
    empty.load_state_dict(whole, assign=True)
    del whole
    try:
        yield
    finally:
        nothing = {name: parameter.to("meta") for name, parameter in empty.named_parameters()}
        empty.load_state_dict(nothing, assign=True, strict=False)


def collect(tensors: Mapping[str, Tensor], processes: ProcessGroup) -> dict[str, Tensor]:
    """Return unsharded tensors, gathered one by one; only the leading process receives their values."""
    place = "cpu" if processes.leads else "meta"
    return {name: tensor.full_tensor().to(place) if _divided(tensor) else tensor for name, tensor in tensors.items()}


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """Shard a tensor like ``other``, which has the same shape; return it as it is if ``other`` is not sharded.

    The result also has the memory layout of ``other``, which fused optimisers rely on.
    """
    if _divided(other):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)
    return tensor if tensor.stride() == other.stride() else torch.empty_like(other, dtype=tensor.dtype).copy_(tensor)


def own(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor, or the tensor itself if it is not sharded."""
    return tensor.to_local() if _divided(tensor) else tensor


def _divided(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether a tensor is a DTensor; importing its module just to check would take a second."""
    return hasattr(tensor, "full_tensor")
