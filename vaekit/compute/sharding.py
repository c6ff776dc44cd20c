"""A model divided over processes: each holds a part of every parameter, of its gradient and of its moments (torch's FSDP2)."""

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
"""Parameters from which a block is gathered by itself; smaller ones are gathered with what surrounds them."""


def shard(module: nn.Module, backbones: Iterable[nn.Module], processes: ProcessGroup) -> nn.Module:
    """Divide a module's parameters over the processes; return a copy without any, to be filled by `gathered`.

    Parameters are whole only while their block computes: an element of a backbone's lists and sequences, the backbone, or the
    module with the rest. Gradients come out as under DDP. The divided module is for training: all processes make each forward
    pass, in the same order.

    Args:
        module: What is divided, in place.
        backbones: Parts of it that hold most of the parameters.
        processes: Those that share it.

    Raises:
        UsageError: A parameter has no dimension to divide.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    whole = [name for name, parameter in module.named_parameters() if parameter.ndim == 0]
    if whole:
        raise UsageError(
            "parameters without a dimension cannot be divided over processes",
            given=", ".join(whole),
            expected="shape (1,) or more",
            remedy="train with --parallel ddp",
        )
    empty = copy.deepcopy(module, {id(p): nn.Parameter(p.to("meta"), p.requires_grad) for p in module.parameters()})
    mesh = init_device_mesh(processes.device.type, (processes.size,))
    for backbone in backbones:
        # an output that is a view, changed in place, would lose FSDP's hooks
        backbone.register_forward_hook(lambda module, inputs, output: output.clone())
        for block in (*blocks(backbone), backbone):
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(module, mesh=mesh, reshard_after_forward=False)
    return empty


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the elements of a network's lists and sequences that hold `BLOCK` parameters or more, outermost ones only."""
    containers = nn.Sequential | nn.ModuleList
    for child in network.children():
        if isinstance(network, containers) and not isinstance(child, containers):
            if sum(parameter.numel() for parameter in child.parameters()) >= BLOCK:
                yield child
        else:
            yield from blocks(child)


@contextmanager
def gathered(module: nn.Module, empty: nn.Module) -> Iterator[None]:
    """Fill what `shard` returned with the whole model for a while, so that each process can use it without the others."""
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
    """Return tensors as one process would have them: their contents to the leading process alone, one after the other."""
    place = "cpu" if processes.leads else "meta"
    return {name: tensor.full_tensor().to(place) if _divided(tensor) else tensor for name, tensor in tensors.items()}


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds of ``other``, which is of the same shape; all where it holds all.

    It lies in memory as ``other`` does: fused optimisers rely on that.
    """
    if _divided(other):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)
    return tensor if tensor.stride() == other.stride() else torch.empty_like(other, dtype=tensor.dtype).copy_(tensor)


def own(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor."""
    return tensor.to_local() if _divided(tensor) else tensor


def _divided(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether a tensor is a DTensor, whose module takes a second to import."""
    return hasattr(tensor, "full_tensor")
