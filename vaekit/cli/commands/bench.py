"""``vaekit bench``: of training, sampling, encoding and evaluation; of an export; or two measurements compared."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vaekit.cli.common import JsonOption
from vaekit.cli.train import SpecArgument, declare, read_options
from vaekit.errors import UsageError

LISTS = {
    "batch_sizes": ("int,int,…", "Images in a step.", "128"),
    "precisions": ("fp32|bf16|auto,…", "Arithmetic.", "auto"),
    "compile": ("on|graph|off,…", "How the training step is launched.", "off"),
    "devices": ("cpu|cuda|mps|auto,…", "Where to compute.", "auto"),
    "tasks": ("task,…", "What to measure.", "train,encode,sample,evaluate"),
}
"""Options of the throughput form that take lists: how to write them, what they are, and what they are by default."""
VARIED = frozenset({"batch_size", "precision", "compile", "device"})
SecondsOption = Annotated[
    float | None, typer.Option(min=0.1, help="For each measurement. [dim]\\[default: 2][/dim]", show_default=False)
]
PlotOption = Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw a chart as well.", show_default=False)]


def placeholder() -> None:
    """Measure the speed of training, sampling, encoding and evaluation, or of an export: see `vaekit bench --help`."""


def command(arguments: Sequence[str]) -> tuple[Callable[..., None], list[str]]:
    """Return the form of the command that fits its arguments, and the arguments in normal form.

    Raises:
        UsageError: A flag is unknown or ambiguous, or a component that it chooses does not exist.
    """
    flags = {argument.partition("=")[0] for argument in arguments}
    if "--onnx" in flags:
        return onnx_latencies, list(arguments)
    if "--compare" in flags:
        return compare, list(arguments)
    table, normal = read_options(arguments, own={*LISTS, "seconds", "plot"})
    lists = {
        name: Annotated[
            str | None,
            typer.Option(metavar=metavar, help=f"{about} [dim]\\[default: {default}][/dim]", show_default=False),
        ]
        for name, (metavar, about, default) in LISTS.items()
    }
    own = {"spec": SpecArgument, **lists, "seconds": SecondsOption, "plot": PlotOption, "json": JsonOption}
    return declare(_throughput, own, [option for option in table.options if not VARIED & set(option.names)]), normal


def _throughput(
    *, spec: Path | None, seconds: float | None, plot: Path | None, json: bool, given: Mapping[str, Any], **lists: str | None
) -> None:
    """Measure the speed of training, encoding, sampling and evaluation, for every combination of the lists given.

    The other flags are those of `train`. Two further forms: `vaekit bench --onnx FILE.onnx` times an export against torch, and
    `vaekit bench --compare A.json B.json` compares what `--json` printed twice.
    """
    from vaekit.benchmark.report import footnotes, throughput_table, write_chart
    from vaekit.benchmark.throughput import throughput
    from vaekit.cli.console import ErrorLines
    from vaekit.specs.models import read_spec

    if plot is not None and (plot.suffix.lower() != ".png" or not plot.parent.is_dir()):
        raise UsageError("the chart cannot be written there", given=plot, expected="FILE.png in a folder that exists")
    chosen = {name: (value or LISTS[name][2]).split(",") for name, value in lists.items()}
    if not all(size.isdecimal() and int(size) for size in chosen["batch_sizes"]):
        raise UsageError("these are no batch sizes", given=lists["batch_sizes"], expected="positive numbers, as 64,128")
    for name, values in (("tasks", set(LISTS["tasks"][2].split(","))), ("compile", {"on", "graph", "off"})):
        if not set(chosen[name]) <= values:
            raise UsageError(f"unknown {name}", given=lists[name], expected=f"some of {', '.join(sorted(values))}")
    result = throughput(
        read_spec(spec) if spec is not None else {},
        batch_sizes=[int(size) for size in chosen["batch_sizes"]],
        precisions=chosen["precisions"],
        compilations=chosen["compile"],
        devices=chosen["devices"],
        tasks=chosen["tasks"],
        seconds=seconds or 2.0,
        reporter=ErrorLines(),
        **given,
    )
    if plot is not None:
        write_chart(result, plot)
    if json:
        typer.echo(json_module.dumps(result))
        return
    _print(throughput_table(result), footnotes(result))


def compare(
    files: Annotated[
        tuple[Path, Path],
        typer.Option("--compare", metavar="A.json B.json", help="Two measurements, before and after.", show_default=False),
    ],
    as_json: JsonOption = False,
) -> None:
    """Compare two measurements that `vaekit bench --json` printed."""
    from vaekit.benchmark.report import compare as compare_results
    from vaekit.benchmark.report import comparison_table, differences, read_result

    before, after = (read_result(file) for file in files)
    rows = compare_results(before, after)
    if as_json:
        typer.echo(json_module.dumps(rows))
    else:
        _print(comparison_table(rows), differences(before, after))


def _print(table: Any, lines: Sequence[str]) -> None:
    """Print a table, in full width where nobody watches, and lines below it."""
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
    from vaekit.benchmark.latency import onnx_latency, onnx_table

    if onnx is None:
        raise UsageError("nothing to measure was given", expected="--onnx FILE.onnx")
    sizes = [int(size) for size in batch.split(",") if size.isdecimal() and int(size) > 0]
    if len(sizes) != len(batch.split(",")):
        raise UsageError("these are no batch sizes", given=f"--batch {batch}", expected="positive numbers, as 1,8,64")
    result = onnx_latency(onnx, run, batches=sizes, threads=threads, seconds=seconds)
    typer.echo(json_module.dumps(result) if as_json else onnx_table(result))
