"""Export every built-in decoder at several sizes; record differences, file sizes and latencies.

    python benchmarks/export.py [--seconds 0.5] [--threads 1] [--json benchmarks/results/export.json]

Weights are untrained, with the components' default widths: neither differences nor latencies depend on training. ONNX Runtime
and eager torch are timed in alternation, with the same number of threads.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import write

from vaekit import roles
from vaekit.components.exporters.onnx import Onnx
from vaekit.data.facts import Facts
from vaekit.export.latency import latencies
from vaekit.export.parts import part_of
from vaekit.export.reading import OnnxFile
from vaekit.export.trained import Trained, latents_of
from vaekit.model.assembly import build_vae
from vaekit.specs.options import build_spec

SHAPES = ((1, 28, 28), (3, 64, 64), (3, 150, 150), (3, 31, 47))
BATCHES = (1, 8, 64)
PRECISIONS: tuple[dict[str, Any], ...] = ({}, {"fp16": True}, {"int8": True})


def measure(decoder: str, shape: tuple[int, ...], folder: Path, *, threads: int, seconds: float) -> dict[str, Any]:
    """Export a decoder in every precision and time it."""
    spec = build_spec({}, {"encoder": "mlp", "encoder.hidden": (8,), "decoder": decoder, "latent_dim": 32})
    vae = build_vae(spec.model, Facts(data_shape=shape), seed=0).eval().requires_grad_(False)
    trained = Trained(vae, spec, {}, latents_of(vae, None))
    part = part_of(trained, "decoder")
    row: dict[str, Any] = {"decoder": decoder, "shape": list(shape)}
    functions = {}
    for options in PRECISIONS:
        exporter = Onnx(**options)
        exported = exporter.export(trained, "decoder", folder / f"{exporter.precision}.onnx")
        row[exporter.precision] = {"bytes": exported.size, "difference": exported.parity.difference, "mean": exported.parity.mean}
        functions[exporter.precision] = OnnxFile(exported.path).load(threads)
    row["latency"] = []
    with torch.inference_mode():
        for batch in BATCHES:
            inputs = torch.randn(batch, 32, generator=torch.Generator().manual_seed(0))
            calls = {name: partial(functions[name], [inputs.numpy()]) for name in ("fp32", "int8")}
            times = latencies({**calls, "torch": partial(part.module, inputs)}, seconds=seconds)
            summary = {name: [round(t.median, 4), round(t.lower, 4), round(t.upper, 4)] for name, t in times.items()}
            row["latency"].append({"batch": batch, **summary, "speedup": round(times["torch"].median / times["fp32"].median, 3)})
    return row


def main() -> None:
    """Measure all decoders, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=0.5, help="duration of each measurement")
    parser.add_argument("--decoders", help="some of the decoders, separated by commas; default: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    rows = []
    print(
        f"{'decoder':<9} {'image':>11} {'difference':>10} {'fp16':>8} {'int8':>8} {'kB':>6}  ONNX ms / torch ms at batch 1, 8, 64"
    )
    for decoder in roles.decoders.kinds() if arguments.decoders is None else arguments.decoders.split(","):
        for shape in SHAPES:
            with tempfile.TemporaryDirectory() as folder:
                row = measure(decoder, shape, Path(folder), threads=arguments.threads, seconds=arguments.seconds)
            rows.append(row)
            speeds = "  ".join(f"{t['fp32'][0]:.3g}/{t['torch'][0]:.3g} = {t['speedup']:.2f}" for t in row["latency"])
            gaps = f"{row['fp32']['difference']:>10.1e} {row['fp16']['difference']:>8.1e} {row['int8']['difference']:>8.1e}"
            print(f"{decoder:<9} {'×'.join(map(str, shape)):>11} {gaps} {row['fp32']['bytes'] / 1e3:>6.0f}  {speeds}", flush=True)
    write(arguments.json, arguments.threads, rows, seconds=arguments.seconds, milliseconds="median, quartiles")


if __name__ == "__main__":
    main()
