"""The latency of an exported model in ONNX Runtime, compared with torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vaekit.benchmark.machine import environment
from vaekit.export.latency import latencies
from vaekit.export.parts import part_of
from vaekit.export.reading import OnnxFile
from vaekit.run import Run
from vaekit.specs.text import counted
from vaekit.store.folder import is_run


def onnx_latency(
    path: str | Path,
    run: str | Path | None = None,
    *,
    batches: Sequence[int] = (1, 8, 64),
    threads: int | None = None,
    seconds: float = 1.0,
) -> dict[str, Any]:
    """Time an exported file in ONNX Runtime against the same part of the model in eager torch, alternating between the two.

    Args:
        path: The exported file.
        run: The run folder with the weights; default: the folder of the file. Without weights, only the file is timed.
        batches: The batch sizes.
        threads: The number of threads for each; default: torch's choice.
        seconds: The duration of the measurement for each of the two at each batch size.

    Returns:
        ``rows``, one per batch size, with the milliseconds of ``onnx`` and ``torch`` (median, quartiles, number of calls) and
        ``speedup``, the ratio of the medians; the file with its size and precision; and the environment.

    Raises:
        ExportError: The file was not exported by vaekit.
        CheckpointError: ``run`` is given but is not a run folder.
    """
    file = OnnxFile(path)
    threads = threads or torch.get_num_threads()
    folder = file.path.parent if run is None else Path(run)
    trained = Run(folder).trained() if run is not None or is_run(folder) else None
    name, before = file.metadata["part"], torch.get_num_threads()
    function = file.load(threads)
    module = part_of(trained, name).module if trained is not None else None
    rows = []
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            for batch in batches:
                inputs = _inputs(file.metadata, batch)
                functions: dict[str, Callable[[], object]] = {"onnx": partial(function, [each.numpy() for each in inputs])}
                if module is not None:
                    functions["torch"] = partial(module, *inputs)
                rows.append(_row(batch, functions, seconds))
    finally:
        torch.set_num_threads(before)
    about = {"file": file.path.name, "part": name, "precision": file.metadata["precision"], "bytes": file.size}
    return {**about, "rows": rows, "environment": environment(threads)}


def _inputs(metadata: Mapping[str, Any], batch: int) -> list[torch.Tensor]:
    """Return random images or codes, and cyclic class indices, for the inputs of a file."""
    generator, (first, *others) = torch.Generator().manual_seed(0), metadata["inputs"]
    numbers = torch.rand(batch, *first["shape"][1:], generator=generator)
    return [numbers, *(torch.arange(batch) % len(metadata["class_names"]) for _ in others)]


def _row(batch: int, functions: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, Any]:
    times = latencies(functions, seconds=seconds)
    row: dict[str, Any] = {"batch": batch, **{name: asdict(time) for name, time in times.items()}}
    if "torch" in times:
        row["speedup"] = times["torch"].median / times["onnx"].median
    return row


def onnx_table(result: Mapping[str, Any]) -> str:
    """Format the result of `onnx_latency` as a text table."""
    machine = result["environment"]
    lines = [
        f"{result['file']}: {result['part']}, {result['precision']}, {result['bytes']:,} bytes",
        f"{machine['processor']}, {counted(machine['threads'], 'thread')}; milliseconds, median (quartiles)",
        f"{'batch':>6}  {'ONNX Runtime':>24}  {'torch eager':>24}  speed-up",
    ]
    for row in result["rows"]:
        cells = [_cell(row[name]) if name in row else "no weights found" for name in ("onnx", "torch")]
        ratio = f"{row['speedup']:.2f}" if "speedup" in row else ""
        lines.append(f"{row['batch']:>6}  {cells[0]:>24}  {cells[1]:>24}  {ratio:>8}")
    return "\n".join(lines)


def _cell(time: Mapping[str, float]) -> str:
    return f"{time['median']:.3f} ({time['lower']:.3f}-{time['upper']:.3f})"
