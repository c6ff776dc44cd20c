"""``vaekit info``: a summary of a model on one screen, without loading it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from vaekit.cli.common import Panel

PANEL = Panel.TRAINING
WIDTH = 110
MOST_FILES = 12


def info(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="RUN|FILE.onnx", help="Run folder, hf://user/name or ONNX file; default: the newest run."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Summarise a run or an exported file: its data, parts, metrics, versions and files."""
    if model is not None and model.suffix == ".onnx":
        found = _of_file(model)
        lines = _file_lines(found)
    else:
        from vaekit.hub import local_run, shown
        from vaekit.store.folder import RunFolder, newest_run
        from vaekit.store.overview import overview

        folder = RunFolder(newest_run() if model is None else local_run(model)).require()
        found = {"source": None if model is None else shown(model), **overview(folder)}
        lines = _run_lines(found)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        _print(lines)


def _print(lines: Iterable[tuple[str, str]]) -> None:
    """Print labels and texts in two columns; in a terminal, the texts wrap."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    console.width = min(console.width, WIDTH) if console.is_terminal else 10_000
    table = Table.grid(padding=(0, 2))
    for label, text in lines:
        table.add_row(Text(label, style="bold"), Text(text))
    with console.capture() as printed:
        console.print(table)
    typer.echo("\n".join(line.rstrip() for line in printed.get().splitlines()))


def _run_lines(run: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    from vaekit.evaluation.metrics import comparable_metrics
    from vaekit.evaluation.tables import number_text
    from vaekit.store.overview import part_text

    if run["source"] not in {None, run["run"]}:
        yield "hub", run["source"]
    yield "run", run["run"]
    if run["name"] != Path(run["run"]).name:
        yield "name", run["name"]
    if run["tags"]:
        yield "tags", ", ".join(run["tags"])
    best = "" if run["best_epoch"] is None else f"; weights of epoch {run['best_epoch']}"
    date = "" if run["date"] is None else f"; {run['date'][:16].replace('T', ' ')}"
    yield "state", f"{run['state']}, {run['epoch']} of {run['epochs']} epochs{best}{date}"
    yield "data", "; ".join(_data(run))
    for part in run["parts"]:
        yield part["role"], part_text(part) + (f"; {part['weights']:,} weights" if part["weights"] else "")
    grid = "" if run["latent_stride"] is None else f" at each position of a grid, every {run['latent_stride']} pixels"
    yield "latents", f"{run['latent_dim']}{grid}"
    if run["weights"] is not None:
        yield "weights", f"{run['weights']:,}"
    numbers = run["evaluation"]
    if numbers is None and run["validation_elbo"] is not None:
        yield "validation", f"ELBO {run['validation_elbo']:,.3f} nats per image"
    if numbers is not None:
        metrics = comparable_metrics({"": numbers})
        texts = [f"{metric.label} {number_text(metric, numbers)} {metric.unit}".strip() for metric in metrics]
        yield str(numbers.get("split", "test")), "; ".join(texts)
        if "elbo_is" in numbers:
            yield "ELBO", str(numbers["elbo_is"])
    if run["versions"] is not None:
        yield "versions", ", ".join(_versions(run["versions"]))
    files = [f"{name} {_size(size)}" for name, size in run["files"].items()]
    more = [f"{len(files) - MOST_FILES} more"] if len(files) > MOST_FILES else []
    yield "files", ", ".join([*files[:MOST_FILES], *more])
    for export in run["exports"]:
        yield "export", " ".join(filter(None, (export["file"], export["part"], export["precision"])))


def _data(run: Mapping[str, Any]) -> Iterable[str]:
    if run["data_shape"] is None:
        yield str(run["dataset"])
        return
    low, high = run["value_range"]
    yield f"{run['dataset']}, {'×'.join(map(str, run['data_shape']))} in [{low:g}, {high:g}]"
    if run["binarize"] not in {None, "none"}:
        yield f"binarised: {run['binarize']}"
    if run["class_names"]:
        yield f"{len(run['class_names'])} classes"


def _versions(versions: Mapping[str, Any]) -> Iterable[str]:
    """Return the versions that a run was trained with: vaekit, torch and plugins."""
    yield from (f"{name} {versions[name]}" for name in ("vaekit", "torch") if name in versions)
    plugins = {(each["distribution"], each["version"]) for each in versions.get("components", {}).values()}
    yield from sorted(f"{name} {version}".strip() for name, version in plugins if name != "vaekit")


def _of_file(path: Path) -> dict[str, Any]:
    """Return the metadata of an ONNX file, with facts read from the file itself."""
    from vaekit.export.parity import TOLERANCES
    from vaekit.export.reading import OnnxFile

    file = OnnxFile(path)
    file.check_digest()
    opset = {entry.domain or "onnx": entry.version for entry in file.model.opset_import}
    about = {"file": str(path), "size": file.size, "opset": opset}
    return {**about, "tolerance": TOLERANCES[file.metadata["precision"]], **file.metadata}


def _file_lines(found: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    from vaekit.specs.text import value_text

    spec, trained = found["spec"], found["versions"]["trained_with"]
    yield "file", f"{found['file']}, {_size(found['size'])}; intact"
    yield "part", f"{found['part']} of a model of {spec['data']['dataset']['kind']}"
    for port in ("inputs", "outputs"):
        yield port, "; ".join(f"{each['name']} {each['type']} {'×'.join(map(str, each['shape']))}" for each in found[port])
    yield "range", "data from {:g} to {:g}".format(*found["value_range"])
    if found["class_names"]:
        yield "labels", value_text(found["class_names"])
    tolerance = (
        "its difference from the model was measured only"
        if found["tolerance"] is None
        else f"equal to the model up to {found['tolerance']:g}"
    )
    yield "precision", f"{found['precision']}; {tolerance}, as verified at export"
    yield "opset", ", ".join(f"{domain} {version}" for domain, version in found["opset"].items())
    if found["latents"]:
        used = [i for i, latent in enumerate(found["latents"]) if (latent["kl"] or 0) > 0.01]
        yield "latents", f"{found['latent_size']}, {len(used)} of them with more than 0.01 nats"
    shift = found["shift_factor"]
    yield "scaling", f"(z {'-' if shift >= 0 else '+'} {abs(shift):.4g}) * {found['scaling_factor']:.4g}"
    if "threshold" in found:
        threshold = found["threshold"]
        yield (
            "threshold",
            f"{threshold['score']} above {threshold['value']:.6g}, the {threshold['quantile']:.4g} quantile of "
            f"{threshold['num_images']:,} scores of {threshold['source']}",
        )
    if found["licence"]:
        yield "licence", found["licence"]
    model = spec["model"]
    yield (
        "model",
        ", ".join(f"{role} {model[role]['kind']}" for role in ("encoder", "posterior", "prior", "decoder", "likelihood")),
    )
    yield "versions", ", ".join(_versions(trained)) + f"; exported by vaekit {found['versions']['exported_with']['vaekit']}"


def _size(number: float) -> str:
    """Format a number of bytes."""
    power = min(int(math.log10(max(number, 1)) // 3), 3)
    return f"{number / 1000**power:.3g} {('B', 'kB', 'MB', 'GB')[power]}"
