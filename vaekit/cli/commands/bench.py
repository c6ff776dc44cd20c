"""``vaekit bench``: measure training, sampling, encoding and evaluation, or an export; compare two measurements."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vaekit.cli.common import JsonOption, Panel
from vaekit.cli.options import SpecArgument, with_component_options
from vaekit.errors import UsageError

PANEL = Panel.TRAINING
TASKS = "train,encode,sample,evaluate"
LISTED = frozenset({"batch_size", "precision", "compile", "device"})
"""Options of training that are lists here, under other names."""


def command(arguments: Sequence[str]) -> tuple[Callable[..., None], list[str]]:
    """Return the form of the command that fits its arguments, and the arguments in normal form."""
    flags = {argument.partition("=")[0] for argument in arguments}
    if "--onnx" in flags:
        return onnx_latencies, list(arguments)
    if "--compare" in flags:
        return compare, list(arguments)
    if "--decoders" in flags:
        return decoders, list(arguments)
    return with_component_options(bench, arguments, without=LISTED)


def bench(
    spec: SpecArgument = None,
    *,
    batch_sizes: Annotated[str, typer.Option(metavar="int,int,…", help="Images in a step.")] = "128",
    precisions: Annotated[str, typer.Option(metavar="fp32|bf16|auto,…", help="Floating-point precision.")] = "auto",
    compile: Annotated[  # noqa: A002 - the flag's name
        str, typer.Option(metavar="on|graph|off,…", help="How the training step is launched.")
    ] = "off",
    devices: Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps,…", help="Where to compute.")] = "auto",
    tasks: Annotated[str, typer.Option(metavar="task,…", help="What to measure.")] = TASKS,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds per measurement.")] = 2.0,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw a chart as well.", show_default=False)] = None,
    json: JsonOption = False,
    base: Mapping[str, Any],
    given: Mapping[str, Any],
) -> None:
    """Measure the speed of training, encoding, sampling and evaluation, for every combination of the given lists.

    The other flags are those of `train`. There are three other forms: `vaekit bench --onnx FILE.onnx` compares the latency of an
    export with torch, `vaekit bench --compare A.json B.json` compares two outputs of `--json`, and `vaekit bench --decoders RUN
    STUDENT` compares the decoder of a run with one distilled from it.
    """
    from vaekit.benchmark.report import footnotes, throughput_table, write_chart
    from vaekit.benchmark.throughput import throughput
    from vaekit.cli.console import ErrorLines

    del spec  # it was read as `base` to find the options
    if plot is not None and (plot.suffix.lower() != ".png" or not plot.parent.is_dir()):
        raise UsageError("the chart cannot be written there", given=plot, expected="FILE.png in an existing folder")
    for name, text, known in (("tasks", tasks, set(TASKS.split(","))), ("compile", compile, {"on", "graph", "off"})):
        if not set(text.split(",")) <= known:
            raise UsageError(f"unknown {name}", given=text, expected=f"some of {', '.join(sorted(known))}")
    result = throughput(
        base,
        batch_sizes=_read_sizes(batch_sizes),
        precisions=precisions.split(","),
        compilations=compile.split(","),
        devices=devices.split(","),
        tasks=tasks.split(","),
        seconds=seconds,
        reporter=ErrorLines(),
        **given,
    )
    if plot is not None:
        write_chart(result, plot)
    if json:
        typer.echo(json_module.dumps(result))
        return
    _print(throughput_table(result), footnotes(result))


def _read_sizes(text: str) -> list[int]:
    """Parse batch sizes.

    Raises:
        UsageError: They are not positive integers.
    """
    sizes = text.split(",")
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise UsageError("batch sizes must be positive integers", given=text, expected="a list such as 1,8,64")
    return [int(size) for size in sizes]


def compare(
    files: Annotated[
        tuple[Path, Path],
        typer.Option("--compare", metavar="A.json B.json", help="Two measurements, before and after.", show_default=False),
    ],
    as_json: JsonOption = False,
) -> None:
    """Compare two measurements that `vaekit bench --json` printed."""
    from vaekit.benchmark.report import compare as compare_results
    from vaekit.benchmark.report import differences, read_result, speedup_table

    before, after = (read_result(file) for file in files)
    rows = compare_results(before, after)
    if as_json:
        typer.echo(json_module.dumps(rows))
    else:
        _print(speedup_table(rows), differences(before, after))


def decoders(
    runs: Annotated[
        tuple[Path, Path],
        typer.Option("--decoders", metavar="RUN STUDENT", help="A run, and one distilled from it.", show_default=False),
    ],
    batch: Annotated[str, typer.Option(metavar="int,int,…", help="Batch sizes.")] = "1,64",
    seconds: Annotated[float, typer.Option(min=0.01, max=3600, help="Seconds per measurement.")] = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Compare two decoders of the same codes, as `vaekit distill` does at its end: parameters, test metrics and speed."""
    from vaekit.benchmark.decoders import compare_decoders, decoder_table
    from vaekit.run import Run

    teacher, student = map(Run, runs)
    result = compare_decoders(teacher, student, batches=_read_sizes(batch), seconds=seconds)
    typer.echo(json_module.dumps(result) if as_json else decoder_table(result))


def _print(table: Any, lines: Sequence[str]) -> None:
    """Print a table, at full width unless on a terminal, and lines below it."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    console.print(table)
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def onnx_latencies(  # noqa: PLR0917 - Typer calls it by keywords
    onnx: Annotated[
        Path | None, typer.Option(metavar="FILE.onnx", help="Time this export against torch.", show_default=False)
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="The run it was exported from; default: the folder of the file.", show_default=False),
    ] = None,
    batch: Annotated[str, typer.Option(metavar="int,int,…", help="Batch sizes.")] = "1,8,64",
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Threads for each; default: as many as torch uses.", show_default=False)
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds per measurement.")] = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Measure the latency of an exported model, in ONNX Runtime and in torch, with the same number of threads."""
    from vaekit.benchmark.latency import onnx_latency, onnx_table

    if onnx is None:
        raise UsageError("nothing to measure", expected="--onnx FILE.onnx")
    result = onnx_latency(onnx, run, batches=_read_sizes(batch), threads=threads, seconds=seconds)
    typer.echo(json_module.dumps(result) if as_json else onnx_table(result))
