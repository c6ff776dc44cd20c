"""``vaekit bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vaekit.cli.common import JsonOption
from vaekit.errors import UsageError


def bench(  # noqa: PLR0917 - Typer calls it by keywords
    onnx: Annotated[
        Path | None, typer.Option(metavar="FILE.onnx", help="Time this export against torch.", show_default=False)
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="The run that it came from; the folder where it lies unless given.", show_default=False),
    ] = None,
    batch: Annotated[str, typer.Option(metavar="int,int,…", help="Batch sizes.")] = "1,8,64",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of either; as many as torch takes unless given.", show_default=False)
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="For each measurement.")] = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Measure the latency of an exported model, in ONNX Runtime and in torch, with the same number of threads."""
    from vaekit.benchmark import onnx_latency, onnx_table

    if onnx is None:
        raise UsageError("nothing to measure was given", expected="--onnx FILE.onnx")
    sizes = [int(size) for size in batch.split(",") if size.isdecimal() and int(size) > 0]
    if len(sizes) != len(batch.split(",")):
        raise UsageError("these are no batch sizes", given=f"--batch {batch}", expected="positive numbers, as 1,8,64")
    result = onnx_latency(onnx, run, batches=sizes, threads=threads, seconds=seconds)
    typer.echo(json.dumps(result) if as_json else onnx_table(result))
