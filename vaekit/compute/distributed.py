"""Distributed training: processes started by torchrun and connected by torch.distributed."""

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
"""How long processes wait for each other: the first may have to download and decode data. If one dies, all stop immediately."""


class ProcessGroup:
    """The group of processes that train together, seen from this process; by default, a single process. See `join`.

    Args:
        rank: The rank of this process, from 0.
        size: The number of processes (the world size).
        device: The device of this process.
    """

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | str = "cpu") -> None:
        self.rank, self.size, self.device = rank, size, torch.device(device)

    @property
    def leads(self) -> bool:
        """Whether this is the leading process, rank 0, which writes files and reports to the user."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place, and return it."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def total(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sum small tensors by name over all processes, on the CPU; a tensor missing in a process counts as 0."""
        if self.size == 1:
            return dict(sums)
        parts: list[dict[str, Tensor]] = [{}] * self.size
        dist.all_gather_object(parts, {name: value.cpu() for name, value in sums.items()})
        total: dict[str, Tensor] = {}
        for name, value in ((name, value) for part in parts for name, value in part.items()):
            total[name] = total[name] + value if name in total else value
        return total

    def gather(self, part: Tensor, dim: int) -> Tensor:
        """Concatenate equally shaped tensors from all processes along a dimension, in rank order.

        All processes then compute the same result from the whole tensor, and gradients are averaged over processes afterwards.
        Hence this process's part receives its own gradient times the number of processes, and the backward pass needs no
        communication.
        """
        own = part.detach()
        whole = own.new_empty(self.size * own.numel())
        dist.all_gather_into_tensor(whole, own.reshape(-1).contiguous())
        parts = list(whole.view(self.size, *own.shape).unbind(0))
        if part.requires_grad:
            parts[self.rank] = parts[self.rank] + self.size * (part - own)
        return torch.cat(parts, dim)

    def any(self, *flags: bool) -> list[bool]:
        """Return, for each flag, whether it is set in at least one process."""
        if self.size == 1:
            return list(flags)
        return [bool(count) for count in self.sum(torch.tensor(flags, dtype=torch.int32, device=self.device)).tolist()]

    def share_text(self, text: str) -> str:
        """Return the text of the leading process."""
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
        """Return the tensors of the leading process."""
        if self.size == 1:
            return dict(tensors)
        shapes = {name: (list(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in tensors.items()}
        shared = {}
        for name, (shape, dtype) in json.loads(self.share_text(json.dumps(shapes))).items():
            tensor = torch.empty(shape, dtype=getattr(torch, dtype), device=self.device)
            if self.leads:
                tensor.copy_(tensors[name])
            dist.broadcast(tensor.reshape(-1).view(torch.uint8), 0)
            shared[name] = tensor
        return shared

    def wait(self) -> None:
        """Wait until all processes have reached this point."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Run a block, such as a download, first in the leading process, then in one per other machine, then in the rest."""
        turn = 0 if self.leads else 1 if os.environ.get("LOCAL_RANK") == "0" else 2
        for _ in range(turn):
            self.wait()
        yield
        for _ in range(2 - turn):
            self.wait()


def num_processes() -> int:
    """Return the number of processes that torchrun started, or 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def select_device(device: str) -> torch.device:
    """Return this process's device and make it the current one; each process on a machine uses its own GPU, if available."""
    place = torch.device(device)
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        torch.cuda.set_device(place)
    return place


@contextmanager
def join(device: str) -> Iterator[ProcessGroup]:
    """Join the group of processes that torchrun started, if any, and leave it on exit.

    Args:
        device: The device type; with several GPUs, each process on a machine uses its own.
    """
    size = num_processes()
    if size == 1 or not dist.is_available():
        yield ProcessGroup(device=device)
        return
    place = select_device(device)
    own: dict[str, Any] = {"backend": "nccl", "device_id": place} if place.type == "cuda" else {"backend": "gloo"}
    dist.init_process_group(**own, timeout=PATIENCE)
    processes = ProcessGroup(dist.get_rank(), size, place)
    try:
        yield processes
        gc.collect()  # a reference to the group, such as a DDP module in a cycle, would abort the process on exit
        processes.wait()  # leaving the group while another process still communicates would abort that process
    except RuntimeError as error:
        if "Connection" not in str(error):
            raise
        raise VaekitError(
            f"process {processes.rank} stops because another process has ended",
            given=f"{error}".partition("\n")[0],
            remedy="see the error message of the other process",
        ) from error
    finally:
        dist.destroy_process_group()
