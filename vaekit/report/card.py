"""The model card of a run, the ``README.md`` of its repository on the Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vaekit import hub
from vaekit.evaluation.metrics import METRICS, comparable_metrics, metrics_in
from vaekit.evaluation.tables import number_text
from vaekit.extras import import_extra
from vaekit.store.overview import part_text

ALTERNATIVES = {
    "samples": "Images decoded from samples of the prior",
    "reconstructions": "Images of the data, each with its reconstruction below",
    "training": "Samples from the prior during training",
}
"""The captions of pictures, by the stems of their files."""
INSTALLATION = 'pip install "vaekit[hub]"'
DECODER = (
    "`decoder.onnx` maps latents to data without vaekit or torch, in Python, Node or a web page; `decoder.json` gives "
    "the shapes, the names and the range of each latent."
)
PAGE = "`decoder.html` is a page to play with the decoder: download it and open it in a browser."
STATE = (
    "The optimiser state is not included: a new run can start from these weights, but this one cannot be resumed. "
    "`config.json` is the complete spec."
)


def model_card(about: Mapping[str, Any], files: Sequence[str], *, title: str, source: str, licence: str | None = None) -> str:
    """Return the model card of a run: metadata, from which the Hub takes tags and metrics, and text.

    Args:
        about: The facts about the run; see `vaekit.store.overview.overview`.
        files: The names of the files beside it.
        title: The name of the model.
        source: The name by which it is loaded, such as ``hf://user/name``.
        licence: The licence of the model, by an identifier of the Hub, such as ``cc-by-4.0``; default: none is stated.

    Raises:
        UsageError: `huggingface_hub` is not installed.
    """
    library = import_extra("huggingface_hub", "hub", "a model card")
    kinds = {part["kind"] for part in about["parts"] if part["role"] in {"posterior", "loss"}}
    exported = ["onnx"] if "decoder.onnx" in files else []
    base = None if about["init"] is None else hub.location(about["init"])
    data = library.ModelCardData(
        base_model=None if base is None else base.repo,
        library_name="vaekit",
        license=None if licence is None else licence.lower(),
        tags=["variational-autoencoder", "vae", *exported, *sorted(kinds | {about["dataset"]})],
        pipeline_tag=_task(about) if _is_image(about) else None,
        model_name=title,
        eval_results=[*_results(about, library)] or None,
    )
    text = "\n\n".join(_sections(about, files, title, source))
    return str(library.ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n"))


def _is_image(about: Mapping[str, Any]) -> bool:
    return len(about["data_shape"]) == 3 and about["data_shape"][0] in {1, 3}


def _task(about: Mapping[str, Any]) -> str:
    """Return the task of the model, by an identifier of the Hub."""
    return "unconditional-image-generation" if _is_image(about) else "feature-extraction"


def _results(about: Mapping[str, Any], library: Any) -> Iterator[Any]:
    """Yield the test metrics as results that the Hub lists."""
    numbers = about["evaluation"] or {}
    for metric in comparable_metrics({"": numbers}):
        bound = metric.label == METRICS[metric.key].label  # metrics that replace it have names of their own
        kind = metric.key if bound else re.sub(r"\W+", "_", metric.label.lower()).strip("_")
        yield library.EvalResult(
            task_type=_task(about),
            dataset_type=about["dataset"],
            dataset_name=about["dataset"],
            dataset_split=numbers.get("split"),
            dataset_args={"binarize": about["binarize"], "num_images": numbers.get("num_images")},
            metric_type=kind,
            metric_name=f"{metric.label} ({metric.unit})" if metric.unit else metric.label,
            metric_value=numbers[metric.key],
        )


def _sections(about: Mapping[str, Any], files: Sequence[str], title: str, source: str) -> Iterator[str]:
    shape, (low, high) = "×".join(map(str, about["data_shape"])), about["value_range"]
    yield f"# {title}"
    yield f"A variational autoencoder of `{about['dataset']}` ({shape}, from {low:g} to {high:g}), trained with vaekit."
    yield from _pictures(files)
    yield "\n\n".join(["## Use", _code("", INSTALLATION), _code("python", _loading(about, source))])
    commands = [f"vaekit {command} {source}" for command in ("info", "sample", "evaluate", "export")]
    commands += [f"vaekit train {source} --init {source}    # a new run, from these weights"]
    yield _code("", "\n".join(commands))
    if "decoder.onnx" in files:
        yield DECODER
    if "decoder.html" in files:
        yield PAGE
    yield "## Model\n\n" + _table(("part", "kind and options", "weights"), _parts(about))
    if about["evaluation"]:
        yield "## Numbers\n\n" + _numbers(about["evaluation"])
    done = f"{about['epoch']} of {about['epochs']} epochs, with vaekit {about['versions']['vaekit']}"
    yield f"## Training\n\n{done} and torch {about['versions']['torch']}. {STATE}"


def _pictures(files: Sequence[str]) -> Iterator[str]:
    for file in files:
        stem = file.partition(".")[0]
        if stem in ALTERNATIVES:
            yield f"![{ALTERNATIVES[stem]}]({file})\n\n*{ALTERNATIVES[stem]}*"


def _loading(about: Mapping[str, Any], source: str) -> str:
    shape = ", ".join(["16", *map(str, about["data_shape"])])
    return (
        "import vaekit\n\n"
        f'vae = vaekit.load("{source}")\n'
        f"data = vae.sample(16)             # ({shape})\n"
        f'run = vaekit.Run("{source}")     # to evaluate it, draw pictures and export it'
    )


def _parts(about: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for part in about["parts"]:
        yield part["role"], f"`{part_text(part)}`", f"{part['weights']:,}" if part["weights"] else ""
    stride = about["latent_stride"]
    yield "latents", f"{about['latent_dim']}" + ("" if stride is None else f" at each position, every {stride} pixels"), ""
    yield "all", "", f"{about['weights']:,}"


def _numbers(evaluation: Mapping[str, Any]) -> str:
    rows = [(metric.label, number_text(metric, evaluation), metric.unit, metric.meaning) for metric in metrics_in(evaluation)]
    images = f"{evaluation['num_images']:,} {evaluation['split']} images, weights of epoch {evaluation['epoch']}."
    return f"{images}\n\n{_table(('metric', 'value', 'unit', 'meaning'), rows)}"


def _table(titles: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (titles, ["---"] * len(titles), *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _code(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"
