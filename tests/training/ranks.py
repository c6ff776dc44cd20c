"""Two processes of one run, as torchrun starts them, but forked from a process that has imported what they need."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from pathlib import Path

from vaekit.cli import main

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__, "vaekit", "vaekit.run", "vaekit.cli.commands.train", "torch.distributed.fsdp"])


def vaekit_in_two_processes(folder: Path, *arguments: object) -> str:
    """Run a command of vaekit in two processes; return what they wrote to stderr.

    Raises:
        AssertionError: One of them failed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    errors = [folder / f"errors_{rank}.txt" for rank in range(2)]
    ranks = [CONTEXT.Process(target=_run, args=(rank, port, errors[rank], [*map(str, arguments)])) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout=180)
        rank.kill()
    told = "\n".join(file.read_text() for file in errors)
    assert [rank.exitcode for rank in ranks] == [0, 0], told
    return told


def _run(rank: int, port: int, errors: Path, arguments: list[str]) -> None:
    """Be one of two processes of a run."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    stream = errors.open("w")
    os.dup2(stream.fileno(), 2)
    sys.exit(main(arguments))
