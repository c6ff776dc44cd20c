"""The processes that train one model together: started by torchrun, joined by torch.distributed."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from vaekit.errors import VaekitError

PATIENCE = timedelta(hours=2)
"""How long processes wait for one another: the first may have data to download and decode. One that dies ends all at once."""


class ProcessGroup:
    """This process among those that train together; one alone unless `join` finds others.

    Args:
        rank: Number of this process, from 0.
        size: How many there are.
        device: Where this process computes.
    """

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | str = "cpu") -> None:
        self.rank, self.size, self.device = rank, size, torch.device(device)

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes files and talks to the user."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Add a tensor of all processes, in place, and return it."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def total(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Add small tensors of all processes by name, on the CPU; one that a process lacks is 0 there."""
        if self.size == 1:
            return dict(sums)
        parts: list[dict[str, Tensor]] = [{}] * self.size
        dist.all_gather_object(parts, {name: value.cpu() for name, value in sums.items()})
        total: dict[str, Tensor] = {}
        for name, value in ((name, value) for part in parts for name, value in part.items()):
            total[name] = total[name] + value if name in total else value
        return total

    def gather(self, part: Tensor, dim: int) -> Tensor:
        """Join the parts that processes have of a tensor, all of one shape, along a dimension, in order of their numbers.

        What every process then makes of the whole is the same, and gradients are averaged over processes afterwards. So a
        process's part gets its own gradient, times the number of processes, and backward nothing is sent.
        """
        own = part.detach()
        whole = own.new_empty(self.size * own.numel())
        dist.all_gather_into_tensor(whole, own.reshape(-1).contiguous())
        parts = list(whole.view(self.size, *own.shape).unbind(0))
        if part.requires_grad:
            parts[self.rank] = parts[self.rank] + self.size * (part - own)
        return torch.cat(parts, dim)

    def any(self, *flags: bool) -> list[bool]:
        """Return, for each flag, whether it is set in any process."""
        if self.size == 1:
            return list(flags)
        return [bool(count) for count in self.sum(torch.tensor(flags, dtype=torch.int32, device=self.device)).tolist()]

    def share_text(self, text: str) -> str:
        """Return what the leading process gives."""
        if self.size == 1:
            return text
        data = torch.tensor(list(text.encode()), dtype=torch.uint8, device=self.device)
        length = torch.tensor([len(data)], device=self.device)
        dist.broadcast(length, 0)
        if not self.leads:
            data = torch.empty(int(length), dtype=torch.uint8, device=self.device)
        dist.broadcast(data, 0)
        return bytes(data.tolist()).decode()

    def share_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the leading process gives."""
        if self.size == 1:
            return dict(tensors)
        told = {name: (list(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in tensors.items()}
        shared = {}
        for name, (shape, dtype) in json.loads(self.share_text(json.dumps(told))).items():
            tensor = torch.empty(shape, dtype=getattr(torch, dtype), device=self.device)
            if self.leads:
                tensor.copy_(tensors[name])
            dist.broadcast(tensor.reshape(-1).view(torch.uint8), 0)
            shared[name] = tensor
        return shared

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Let the leading process do something before the others, such as a download; then the first of each other machine."""
        turn = 0 if self.leads else 1 if os.environ.get("LOCAL_RANK") == "0" else 2
        for _ in range(turn):
            self.wait()
        yield
        for _ in range(2 - turn):
            self.wait()


def num_processes() -> int:
    """Return how many processes torchrun started; 1 where it did not start this one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the first of the processes that torchrun started, or one that it did not start."""
    return os.environ.get("RANK", "0") == "0"


def take_place(device: str) -> torch.device:
    """Return where a process computes, and make it its current GPU: of several, each process of a machine has its own."""
    place = torch.device(device)
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        torch.cuda.set_device(place)
    return place


@contextmanager
def join(device: str) -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started, if it did; leave them at the end.

    Args:
        device: Kind of device to compute on; of several GPUs each process of a machine takes its own.
    """
    size = num_processes()
    if size == 1 or not dist.is_available():
        yield ProcessGroup(device=device)
        return
    place = take_place(device)
    own: dict[str, Any] = {"backend": "nccl", "device_id": place} if place.type == "cuda" else {"backend": "gloo"}
    dist.init_process_group(**own, timeout=PATIENCE)
    processes = ProcessGroup(dist.get_rank(), size, place)
    try:
        yield processes
        gc.collect()  # what still holds the group, as a DDP module in a cycle does, aborts the process when it exits
        processes.wait()  # a group that one process leaves while another still speaks aborts that other
    except RuntimeError as error:
        if "Connection" not in str(error):
            raise
        raise VaekitError(
            f"process {processes.rank} stops, as another one is gone",
            given=f"{error}".partition("\n")[0],
            remedy="see what that one said",
        ) from error
    finally:
        dist.destroy_process_group()
