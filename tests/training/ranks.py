"""Two processes of one run, as torchrun starts them, but forked from a process that has imported what they need."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path
from typing import Any

from torch import distributed as dist

from vaekit.cli import main
from vaekit.training.step import Step

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__, "vaekit", "vaekit.run", "vaekit.cli.commands.train", "torch.distributed.fsdp"])


def vaekit_in_two_processes(folder: Path, *arguments: object, watch: bool = False) -> str:
    """Run a command of vaekit in two processes; return what they wrote to stderr.

    Args:
        folder: Receives their files.
        arguments: The command.
        watch: Whether each process writes what `watch_steps` sees.

    Raises:
        AssertionError: One of them failed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    errors = [folder / f"errors_{rank}.txt" for rank in range(2)]
    ranks = [CONTEXT.Process(target=_run, args=(rank, port, errors[rank], [*map(str, arguments)], watch)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout=180)
        rank.kill()
    output = "\n".join(file.read_text() for file in errors)
    assert [rank.exitcode for rank in ranks] == [0, 0], output
    return output


def _run(rank: int, port: int, errors: Path, arguments: list[str], watch: bool) -> None:
    """Be one of two processes of a run."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    stream = errors.open("w")
    os.dup2(stream.fileno(), 2)
    if watch:
        watch_steps(errors.with_name(f"steps_{rank}.json"))
    sys.exit(main(arguments))


def watch_steps(file: Path) -> None:
    """Write, after each step of this process, how many buffers were broadcast in it and the values of all buffers."""
    step, broadcast, seen, sent = Step.__call__, dist._broadcast_coalesced, [], []

    def broadcasting(group: Any, tensors: Any, *more: Any) -> None:
        sent.extend(tensors)
        broadcast(group, tensors, *more)

    def stepping(self: Step, reading: Any) -> Any:
        sent.clear()
        terms = step(self, reading)
        buffers = {name: buffer.tolist() for name, buffer in self.objective.named_buffers()}
        seen.append({"broadcast": len(sent), "buffers": buffers})
        file.write_text(json.dumps(seen))
        return terms

    dist._broadcast_coalesced, Step.__call__ = broadcasting, stepping  # type: ignore[assignment,method-assign]
